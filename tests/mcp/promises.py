"""Which tests show what `docs/explanation/mcp-failures.md` says, row by row; `test_promises.py` holds the two to one another."""

from __future__ import annotations

from collections.abc import Mapping

ENDPOINT = "tests/mcp/test_mcp_endpoint.py::"
CLIENTS = "tests/clients/test_real_clients.py::"
KNOWN = "tests/mcp/test_known_failures.py::"
NAMES = "tests/mcp/test_aggregate_names.py::"
ADDRESSES = "tests/mcp/test_aggregate_addresses.py::"
AGGREGATE = "tests/mcp/test_aggregate.py::"
METHODS = "tests/mcp/test_mcp_methods.py::"
SEALED = "tests/mcp/test_sealed.py::"
STREAMS = "tests/attacks/test_mcp_streams.py::"
ORACLES = "tests/attacks/test_mcp_oracles.py::"
WAY = "tests/attacks/test_mcp_same_way.py::"
MEMBERS = "tests/attacks/test_mcp_members.py::"
FUZZ = "tests/mcp/test_mcp_fuzz.py::"
SMUGGLING = "tests/attacks/test_mcp_smuggling.py::"
PINS = "tests/attacks/test_mcp_pins.py::"
SHADOWS = "tests/attacks/test_mcp_aggregate.py::"
WORDS = "tests/attacks/test_mcp_words.py::"
WHOLE = "tests/stdio/test_whole_path.py::"
RESOURCE = "tests/interaction/test_protected_resource.py::"
CONSENT = "tests/interaction/test_consent.py::"
OUTBOUND = "tests/interaction/test_outbound.py::"
QUESTIONS = "tests/mcp/test_questions.py::"
STANDING = "tests/mcp/test_streams.py::"
CONVERSATIONS = "tests/mcp/test_conversations.py::"
ASKED = "tests/mcp/test_aggregate_questions.py::"
HELD = "tests/mcp/test_aggregate_held.py::"
ANSWERS = "tests/attacks/test_mcp_aggregate_questions.py::"
FANNED = "tests/mcp/test_aggregate_streams.py::"
ORACLES = "tests/attacks/test_mcp_oracles.py::"
MEMBERS = "tests/attacks/test_mcp_members.py::"
ADDRESS = "tests/upstream/test_addresses_and_messages.py::"

FAILURES: Mapping[str, tuple[str, ...]] = {
    "Streams that are buffered": (
        ENDPOINT + "test_events_are_passed_on_as_they_come_and_the_last_waits_for_its_record",
        KNOWN + "test_an_answer_alone_in_its_stream_is_one_here_too_for_clients_of_handshakes",
        "tests/conformance/test_same_as_direct.py::test_the_suite_says_the_same_of_the_gateway_as_of_the_server",
        CONVERSATIONS + "test_the_first_question_reaches_the_client_while_its_call_is_open_and_nothing_waits_for_the_end",
    ),
    "A standing stream that says nothing at first": (
        STANDING + "test_a_standing_stream_shows_that_it_stands_at_once_in_both_eras",
    ),
    "Idle streams that end, dead servers that are waited for": (
        ENDPOINT + "test_a_silent_stream_gets_heartbeats",
        ENDPOINT + "test_an_upstream_that_is_down_or_stalls_is_an_upstream_failure",
        AGGREGATE + "test_a_silent_server_costs_its_own_part_of_a_list_and_is_back_when_it_answers",
        STANDING + "test_an_idle_stream_stays_up_for_longer_than_a_server_may_be_silent_during_a_call",
        STANDING + "test_an_upstream_that_is_gone_is_noticed_and_the_stream_does_not_pretend",
        STANDING + "test_streams_that_stand_keep_no_call_waiting_and_no_answer_waits_behind_calls",
    ),
    "Sessions that one replica knows": (
        SEALED + "test_a_session_goes_on_at_another_gateway_that_has_the_keys",
        SEALED + "test_pages_are_turned_at_two_gateways_that_share_nothing_but_their_keys",
        AGGREGATE + "test_two_gateways_without_stickiness_serve_one_client",
        "tests/mcp/test_aggregate_replicas.py::test_an_answer_reaches_the_call_that_waits_whichever_replica_it_is_given_to",
        STANDING + "test_two_workers_without_stickiness_carry_a_question_and_its_answer",
        STANDING + "test_an_answer_is_resumed_at_another_replica_and_governed_as_it_began",
    ),
    "Sessions that belong to whoever presents them": (
        STREAMS + "test_token_b_with_session_a_is_answered_404_as_an_unknown_session",
        STREAMS + "test_a_value_of_one_principal_is_unknown_for_every_other",
        SMUGGLING + "test_another_persons_session_is_unknown",
        STREAMS + "test_a_task_is_unknown_to_everybody_else_and_at_every_other_server",
        STREAMS + "test_a_state_is_unknown_for_another_person_server_tool_or_method_and_when_it_was_changed",
    ),
    "Changes that clients never hear of": (
        STANDING + "test_a_list_that_the_server_changed_is_told_and_the_next_list_is_the_new_one",
        STANDING + "test_a_change_of_policy_is_told_to_those_whose_lists_it_changed_and_to_nobody_else",
        FANNED + "test_one_stream_says_what_changes_at_every_server",
        FANNED + "test_a_client_of_handshakes_hears_of_changes_at_every_server",
    ),
    "A cancellation that is lost, or meets another's call": (
        ENDPOINT + "test_hanging_up_in_the_stateless_era_cancels_the_call_and_the_upstream_notices",
        ENDPOINT + "test_hanging_up_in_the_era_of_handshakes_lets_the_call_finish",
        ENDPOINT + "test_the_official_servers_tool_is_cancelled_when_its_caller_hangs_up",
        ADDRESSES + "test_a_client_of_handshakes_cancels_its_request_at_the_server",
        STANDING + "test_a_cancellation_reaches_the_server_while_its_request_is_open",
        STANDING + "test_hanging_up_ends_the_upstreams_side_of_a_silent_stream",
    ),
    "Members that are dropped": (
        ENDPOINT + "test_definitions_pass_untouched",
        METHODS + "test_an_answer_is_the_servers_own",
        KNOWN + "test_an_empty_result_stays_empty_for_clients_that_expect_nothing_else",
        "tests/mcp/test_mcp_numbers.py::test_structured_content_keeps_every_number_and_every_unknown_member",
        AGGREGATE + "test_definitions_pass_untouched_but_for_their_name",
        CLIENTS + "test_a_real_client_gets_structured_content_equal_to_the_servers",
    ),
    "Prefixed names that are sent to servers": (
        SHADOWS + "test_a_prefix_is_never_told_to_the_server",
        AGGREGATE + "test_the_server_hears_its_own_name_of_the_tool_and_its_own_era",
    ),
    "Names that clients cannot use": (
        NAMES + "test_every_name_is_short_and_plain_and_says_its_server",
        NAMES + "test_two_tools_never_share_a_name",
        AGGREGATE + "test_the_official_client_sees_tools_of_both_eras_and_calls_them",
    ),
    "Addresses of two servers that collide": (
        ADDRESSES + "test_one_address_at_two_servers_is_an_error_of_its_own_and_nobody_is_asked",
        ADDRESSES + "test_of_two_servers_with_one_address_the_one_that_may_be_read_is_asked",
        KNOWN + "test_an_address_of_an_app_is_listed_and_read_as_its_server_wrote_it",
    ),
    "Long tools that end after a minute": (
        KNOWN + "test_a_long_tool_that_reports_progress_outlives_every_timer_of_silence",
        KNOWN + "test_no_timer_ends_a_tool_within_minutes_unless_somebody_configures_it",
        CLIENTS + "test_a_real_client_hears_of_progress_in_the_servers_order",
        STANDING + "test_a_silent_tool_outlives_every_clients_patience_by_heartbeats",
    ),
    "Metadata that does not match the address": (
        RESOURCE + "test_every_address_has_metadata_that_names_it_exactly_whatever_the_request_calls_the_host",
        RESOURCE + "test_no_other_spelling_of_an_address_has_metadata",
        RESOURCE + "test_a_stranger_is_led_to_the_metadata_of_the_address_it_asked_for",
    ),
    "A question that is asked of the wrong client": (
        CONVERSATIONS + "test_two_clients_at_once_are_each_asked_their_own_question",
        STREAMS + "test_a_question_put_to_one_is_answered_by_nobody_else_nor_in_another_session_nor_without_one",
        ASKED + "test_two_clients_at_once_are_each_asked_their_own_question",
        "tests/stdio/test_conversations.py::test_two_people_who_are_asked_at_once_are_each_asked_by_their_own_and_answer_their_own",
    ),
    "A message that two parsers read differently": (
        SMUGGLING + "test_a_message_with_two_readings_is_refused",
        SMUGGLING + "test_what_is_judged_is_what_is_sent",
        FUZZ + "test_what_was_decided_on_is_what_the_server_received",
        FUZZ + "test_a_planted_bug_is_found",
        SMUGGLING + "test_nothing_of_the_callers_that_was_not_checked_is_sent_on",
        MEMBERS + "test_a_request_of_two_readings_reaches_nobody_whatever_it_asks_for",
        "tests/mcp/test_mcp_fuzz.py::test_what_was_decided_on_is_what_the_server_received",
    ),
    "Questions of the stateless era that the aggregate cannot carry": (
        FANNED + "test_a_question_of_a_stateless_server_goes_to_the_client_and_its_answer_back",
    ),
    "Questions that are lost between two eras": (
        ASKED + "test_a_person_is_asked_by_the_servers_name_and_the_answer_comes_back",
        ASKED + "test_what_a_server_says_before_and_after_a_question_stays_in_its_order",
        ASKED + "test_a_server_may_ask_again_after_an_answer_and_its_state_travels_along",
        HELD + "test_the_official_client_is_asked_and_its_answer_reaches_the_call_that_waits",
        HELD + "test_a_server_may_ask_again_and_what_it_says_between_reaches_the_request_that_is_open",
        ASKED + "test_without_an_answer_the_call_ends_in_a_result_that_says_so_on_record_and_the_server_is_not_asked_again",
    ),
    "Definitions that change after their approval": (
        PINS + "test_a_rug_pull_mid_session_is_noticed_before_the_next_call_and_is_not_callable",
        PINS + "test_a_change_of_any_member_is_a_change",
        PINS + "test_replicas_hold_a_server_to_the_same_words",
    ),
}

ATTACKS: Mapping[str, tuple[str, ...]] = {
    "Confused deputy": (
        RESOURCE + "test_nobody_registers_here",
        RESOURCE + "test_where_clients_look_for_an_authorization_server_there_is_nothing_and_no_json",
        CONSENT + "test_another_person_who_opens_the_link_gets_nothing_is_on_record_and_the_link_is_dead",
        CONSENT + "test_an_answer_without_the_cookie_of_its_browser_or_with_a_foreign_state_is_refused",
        CONSENT + "test_a_step_that_was_taken_cannot_be_taken_again",
    ),
    "Token passthrough": (
        ENDPOINT + "test_credentials_reach_the_upstream_and_the_callers_do_not",
        OUTBOUND + "test_nothing_that_came_in_goes_out_and_nothing_of_the_upstreams_own_comes_back",
        "tests/identity/test_only_at.py::test_a_token_for_one_server_counts_at_that_server_alone_seen_before_or_not",
    ),
    "Requests forged by way of the gateway": (
        WORDS + "test_no_address_that_a_definition_or_a_result_names_is_ever_asked",
        ADDRESS + "test_link_local_and_metadata_addresses_are_never_reached",
        ADDRESS + "test_the_address_that_was_judged_is_the_one_that_is_connected_to",
        "tests/upstream/test_client.py::test_a_redirect_is_an_answer_and_not_followed",
        "tests/identity/test_discovery.py::test_what_metadata_names_on_another_private_host_is_not_reached",
    ),
    "Sessions and handles of others": (
        STREAMS + "test_token_b_with_session_a_is_answered_404_as_an_unknown_session",
        STREAMS + "test_a_value_of_one_purpose_server_or_call_is_unknown_for_every_other",
        STREAMS + "test_a_foreign_displaced_or_invented_cursor_never_reaches_the_server",
        SMUGGLING + "test_an_upstreams_session_id_is_never_shown",
    ),
    "Events put into others' streams": (
        STANDING + "test_listening_is_for_what_the_caller_may_read_in_its_own_spelling_and_the_acknowledgement_says_so",
        STANDING + "test_an_update_of_what_may_no_longer_be_read_is_not_told",
        STREAMS + "test_an_event_of_somebody_elses_answer_cannot_be_resumed",
        FANNED + "test_what_was_not_asked_for_is_not_said",
    ),
    "A server's program that reaches further": (
        "tests/stdio/test_attacks.py::test_it_reads_neither_the_gateways_data_nor_its_settings_nor_its_secrets",
        "tests/stdio/test_attacks.py::test_its_environment_is_what_its_settings_give_and_nothing_of_the_gateways",
        "tests/stdio/test_attacks.py::test_it_does_not_outlive_a_gateway_that_is_killed",
        "tests/mcp/test_stdio.py::test_a_child_gets_a_minimal_environment",
        WHOLE + "test_servers_and_all_that_they_started_die_with_a_killed_gateway_and_the_next_one_finds_what_they_kept",
        "tests/stdio/test_user_folders.py::test_a_persons_server_reaches_no_other_persons_folder_while_that_is_in_use",
        "tests/attacks/test_stdio_servers.py::test_a_client_names_a_program_of_its_own",
    ),
    "Mixed-up authorization servers and addresses": (
        CONSENT + "test_an_answer_of_another_authorization_server_is_refused",
        CONSENT + "test_an_answer_at_another_upstreams_address_is_refused",
        CONSENT + "test_no_parameter_leads_a_browser_anywhere_else",
        "tests/identity/test_discovery.py::test_metadata_of_another_issuer_gives_no_keys_even_where_it_names_good_ones",
    ),
    "More scope than is needed": (
        "tests/mcp/test_scopes.py::test_a_token_without_a_scope_is_asked_to_step_up_once_for_all_of_them",
        "tests/identity/test_scope.py::test_an_agents_scope_bounds_a_persons_plain_token_in_its_hands",
    ),
    "Poisoned definitions": (
        PINS + "test_a_poisoned_description_waits_even_on_first_use",
        "tests/mcp/test_poison.py::test_a_planted_sign_is_found_wherever_it_stands",
        PINS + "test_changed_instructions_are_left_out_in_both_eras",
    ),
    "Definitions that change under the approver": (
        PINS + "test_a_change_of_any_member_is_a_change",
        PINS + "test_a_renamed_tool_is_a_new_one",
        PINS + "test_a_list_served_otherwise_to_the_gateway_than_to_clients_grants_nothing",
        PINS + "test_a_server_that_says_that_its_tools_changed_is_asked_before_the_next_call",
    ),
    "A server that speaks in another's name": (
        SHADOWS + "test_shadowing_by_a_tool_that_is_called_as_another_servers",
        SHADOWS + "test_shadowing_while_the_real_one_is_hidden",
        SHADOWS + "test_instructions_of_one_server_that_speak_in_the_name_of_another",
        PINS + "test_a_tool_that_shadows_another_servers_by_looking_like_it_waits",
    ),
    "Smuggling between parsers": (
        SMUGGLING + "test_a_message_with_two_readings_is_refused",
        SMUGGLING + "test_a_message_nested_too_deep_is_refused",
        MEMBERS + "test_a_request_of_two_readings_reaches_nobody_whatever_it_asks_for",
        SMUGGLING + "test_a_message_of_one_era_with_the_headers_of_the_other_is_refused",
    ),
    "Headers that contradict the body": (
        SMUGGLING + "test_a_header_that_says_something_else_than_the_body_is_refused",
        SMUGGLING + "test_a_routing_header_on_two_lines_is_refused",
        MEMBERS + "test_a_name_in_the_header_is_the_one_in_the_body",
        MEMBERS + "test_headers_that_an_approved_definition_wants_are_held_to_it",
        SHADOWS + "test_the_header_names_another_tool_than_the_body",
        "tests/attacks/test_mcp_seams.py::test_a_parameter_header_does_not_say_of_one_argument_what_is_true_of_another",
    ),
    "Claims of clients and servers about themselves": (
        WORDS + "test_nothing_that_a_client_says_of_itself_is_a_fact_that_policy_sees",
        MEMBERS + "test_no_capability_that_policy_denies_or_nobody_knows_is_declared_to_a_server",
        WORDS + "test_nothing_that_a_server_says_of_a_tool_changes_what_policy_is_asked",
    ),
    "Answers out of others' caches": (
        ENDPOINT + "test_a_list_is_for_this_caller_alone",
        METHODS + "test_a_list_can_be_kept_by_this_caller_alone",
        AGGREGATE + "test_a_modern_list_says_for_whom_and_how_long_it_holds_and_a_legacy_one_does_not",
    ),
    "Schemas that exhaust their readers": (
        WORDS + "test_a_schema_that_would_exhaust_its_reader_costs_no_more_than_its_bytes",
        WORDS + "test_no_address_that_a_definition_or_a_result_names_is_ever_asked",
    ),
    "Answers of somebody else, or to nobody's question": (
        STREAMS + "test_a_client_that_answers_what_it_was_never_asked_is_refused_and_the_server_hears_nothing",
        ANSWERS + "test_a_question_put_to_one_is_answered_by_nobody_else_nor_in_another_session_nor_in_another_form",
        ANSWERS + "test_a_second_answer_and_one_after_the_end_are_as_unknown_ones",
        ANSWERS + "test_an_answer_that_a_client_of_handshakes_brings_unasked_goes_to_no_server",
        ANSWERS + "test_a_held_call_goes_on_for_nobody_else_nor_with_other_arguments_nor_twice",
    ),
    "Servers that ask without end": (
        STREAMS + "test_a_server_that_asks_without_end_fills_no_ledger",
        ANSWERS + "test_a_server_that_asks_without_end_is_cut_off",
        ANSWERS + "test_calls_that_are_held_are_bounded_and_the_one_too_many_ends",
    ),
    "Questions that fish for secrets or send people away": (
        QUESTIONS + "test_a_form_that_asks_for_a_secret_is_refused",
        QUESTIONS + "test_a_message_that_asks_for_a_secret_is_refused_and_common_words_are_not",
        QUESTIONS + "test_a_person_is_sent_to_listed_hosts_by_https_alone",
        QUESTIONS + "test_a_form_says_which_server_asks_and_is_else_as_it_was",
        STREAMS + "test_a_question_to_a_client_that_did_not_declare_it_is_not_put",
        CONVERSATIONS + "test_a_person_is_asked_by_the_servers_name_and_the_answer_comes_back",
    ),
    "Asking what one may not know": (
        SMUGGLING + "test_a_hidden_tool_is_answered_as_an_unknown_one_byte_for_byte",
        SMUGGLING + "test_a_hidden_server_is_answered_as_an_unknown_one_byte_for_byte",
        METHODS + "test_what_a_caller_may_not_know_of_is_answered_as_the_unknown",
        ORACLES + "test_the_hidden_is_answered_as_the_unknown_byte_for_byte",
        ORACLES + "test_lists_show_what_could_be_used_and_no_trace_of_the_rest",
        ORACLES + "test_a_path_that_climbs_out_of_what_is_granted_reaches_no_server",
        ADDRESSES + "test_a_hidden_prompt_is_an_unknown_one",
        PINS + "test_what_is_held_back_is_unknown_also_to_whom_policy_denies_it",
        WAY + "test_the_hidden_takes_the_way_of_the_unknown",
        WAY + "test_a_hidden_server_takes_the_way_of_one_that_is_not_there",
        WAY + "test_at_the_url_of_all_servers_a_name_that_leads_nowhere_takes_the_way_of_one_that_is_hidden",
        WAY + "test_the_headers_that_a_hidden_tool_wants_are_nobodys_business",
    ),
}
