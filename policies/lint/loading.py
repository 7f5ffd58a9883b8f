"""Help pages of the findings that keep a bundle from loading: each of them is an error, and none can be silenced."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

PAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "alias": (
            "YAML anchors and aliases are not read.\n\nA reader of the file would have to look elsewhere for what stands here. "
            "Write the value out."
        ),
        "bad-condition": (
            "A condition is not understood, or does not fit a tool that a line uses it for.\n\nThe message says what is wrong, "
            "and the caret where. An argument must stand in `tools.yaml` for every tool that the line covers, and have a type"
            " that the comparison can be made of. [Conditions and tools](conditions.md) has the whole language."
        ),
        "byte-order-mark": (
            "A file starts with a byte order mark.\n\nOther tools would read the first line otherwise. Save the file as UTF-8 "
            "without one."
        ),
        "duplicate-id": (
            "Two lines have the same id.\n\nThe ledger and `explain` name lines by their ids. Give one of them an id of its "
            "own; ids are unique over `grants/` and `shadow/`."
        ),
        "duplicate-key": (
            "A name stands twice in the same place of a YAML file.\n\nMost YAML readers keep one of them without a word. Keep "
            "the one that is meant."
        ),
        "empty-cell": ("A cell of a table is empty.\n\nWrite `-` where there is nothing to say."),
        "empty-workflow": ("A workflow has no rules.\n\nIt would hold nobody to anything. Write a rule, or remove the file."),
        "endless-budget": (
            "A budget is counted neither per `day` nor per `workflow`.\n\n"
            "It would never begin anew: once spent, nobody could ever do this again. Add one of the two."
        ),
        "invisible-character": (
            "A file holds a character that cannot be seen.\n\nTwo names that look the same would differ, or a line would read "
            "otherwise than it is shown. Remove the character."
        ),
        "missing-file": (
            "A file or folder that every bundle has is not there.\n\nA bundle is never used in part. An empty file is enough."
        ),
        "missing-key": ("Something that must be said is not said.\n\nThe message names the key."),
        "no-bundle": ("There is no such folder.\n\nName the folder that holds `model.conf`."),
        "not-json": (
            "`tools.lock` is not JSON.\n\nThe place is where the reader gave up. `bailiwick tools approve` writes the file; "
            "after a merge that went wrong, approve again what is live."
        ),
        "not-utf8": ("A file is not UTF-8.\n\nSave it as UTF-8."),
        "not-yaml": ("A file is not YAML.\n\nThe place is where the reader gave up; the mistake is there or just before it."),
        "odd-character": (
            "A cell holds a quote, a tab, a backtick or a `#`.\n\nCells are plain words, so that Casbin, spreadsheets and diff "
            "tools read them alike. A comment stands on a line of its own."
        ),
        "odd-duty": (
            "An `allow` or `deny` line names a duty, or a `require` line names none.\n\nA duty stands on a `require` line of "
            "its own: then no further grant can take it away."
        ),
        "odd-lock": (
            "`tools.lock` is not as it is written.\n\nOne meaning has one text: a name that stands twice, another order, "
            "other spaces or members that nothing reads would hide a change from a reviewer. `bailiwick tools approve` writes"
            " the file."
        ),
        "odd-model": (
            "`model.conf` is not the one shape of model that cannot fail open.\n\nCasbin ignores second sections, misread "
            "definitions and unknown effects without a word. Use the shipped `model.conf`."
        ),
        "odd-name": ("A name does not have the form that names of its kind have.\n\nThe message or its help shows the form."),
        "odd-role": (
            "A line of `roles.csv` gives a role to something that cannot have it, or gives what is no role.\n\nMembers of "
            "`role:…` are people, groups, services, agents and roles; members of `agents:…` are agents and groups of agents."
        ),
        "odd-time": (
            "A time of a workflow's rule is none.\n\nWrite a number with its unit: `90s`, `30m`, `2h`, `7d`; at most `366d`."
        ),
        "odd-tool": (
            "The column `tool` holds no tool, set or pattern.\n\nWrite `<server>.<tool>`, `<server>.*`, `set:<name>`, "
            "`a2a:<agent>` or `a2a:*`. `*` alone is for `deny` and `require` lines."
        ),
        "outside-link": (
            "A link in the folder leads out of it.\n\nWho may change a bundle is decided by its folder. Put the file itself "
            "there."
        ),
        "role-circle": ("Roles are members of each other in a circle.\n\nTake one of the lines out."),
        "stray-file": (
            "The folder holds a file that is not part of a bundle.\n\nA rule in a file with a misspelt name would be a rule "
            "that nobody enforces. Move the file elsewhere, or correct its name."
        ),
        "too-deep": ("A YAML file is nested too deeply.\n\nNothing in a bundle needs it."),
        "too-large": ("A file, a line or the number of rules is beyond its bound.\n\nThe message names the bound."),
        "unbound-workflow": (
            "A workflow says what *every* call of it may be (`only`, `locked`, `coordinator`), and not which calls those are.\n\n"
            "Without `binds` only calls of the steps that are named belong to a workflow that nobody began by its "
            "name: all others would pass by. Say `binds: [{agent: agent:<id>}]`, or `binds: []` where it counts "
            "for workflows begun by name alone."
        ),
        "unfit-argument": (
            "A workflow's rule compares or adds up an argument that cannot be.\n\n"
            "Texts, numbers and true or false can be compared; numbers alone can be added up."
        ),
        "unknown-action": (
            "The column `action` holds no action, or one that the tool does not have.\n\nTools are `call`ed, agents are `send` "
            "to, earlier agents of a chain `relay`."
        ),
        "unknown-argument": (
            "A condition that reads arguments stands on a line about agents.\n\nA message to an agent has no arguments. Name "
            "the tools that the line is about."
        ),
        "unknown-condition": ("A line names a condition that `conditions.yaml` does not have.\n\nCorrect the name."),
        "unknown-duty": ("A line names a duty that `obligations.yaml` does not have.\n\nCorrect the name."),
        "unknown-effect": (
            "The column `effect` is none of `allow`, `deny` and `require`.\n\nStock Casbin would ignore the line."
        ),
        "unknown-key": ("A YAML file says something under a key that nothing reads.\n\nCorrect the key."),
        "unknown-kind": (
            "A principal has no known kind.\n\nWrite `user:<issuer>/<sub>`, `agent:<id>`, `svc:<id>`, `idp:<group>`, "
            "`role:<name>` or `agents:<name>`."
        ),
        "unknown-line": (
            "A line of a table starts with another word than its table's lines do.\n\nCasbin's own file reader drops such a "
            "line without a word, deny lines too. Lines of `grants/` start with `p`, lines of `roles.csv` with `g`, comments "
            "with `#`."
        ),
        "unknown-object": (
            "A line names an object of a kind that this version does not govern.\n\nThe line would never be asked. The help "
            "says what to write instead."
        ),
        "unknown-risk": ("A risk is none of `low`, `medium` and `high`.\n\nA tool without one is `high`."),
        "unknown-role": (
            "A line speaks for a role that nobody has in its tenant.\n\nCorrect the name, or name the role's members in "
            "`roles.csv`."
        ),
        "unknown-set": ("A line names a set that `tools.yaml` does not have.\n\nCorrect the name."),
        "unknown-step": (
            "A workflow's rule names what can be no step.\n\n"
            "Steps are tools, `<server>.*`, sets, agents (`a2a:<agent>`), resources, prompts, and `*`."
        ),
        "unknown-tenant": ("A tenant is not one of those in `tools.yaml`.\n\nCorrect the name."),
        "unknown-tool": (
            "A line names a tool that `tools.yaml` does not register, or not in the line's tenant.\n\nCorrect the name, or "
            "register the tool: what is not registered can never be called."
        ),
        "unknown-type": (
            "An argument has no known type.\n\nTypes are `string`, `number`, `integer`, `boolean`, `array` and `object`."
        ),
        "unknown-word": (
            "An entry of `servers` in `tools.yaml` says a word that nothing understands.\n\nWhat is not understood is not "
            "guessed: the help names the words."
        ),
        "unmeetable-rule": (
            "A workflow's rule can never be met, whatever happens.\n\n"
            "Every call that it speaks of would be refused. The message says why."
        ),
        "unnamed-agent": (
            "A workflow names an agent that no line of policy knows.\n\n"
            "Nobody could make the step that it is named for. Name one that `grants/` or `roles.csv` names, or "
            "correct the name."
        ),
        "unreadable": ("A file cannot be read.\n\nThe message says why."),
        "workflow-contradiction": (
            "Two rules of a workflow contradict each other.\n\n"
            "Together they refuse what one of them demands. The message names both."
        ),
        "workflow-cycle": (
            "Steps of a workflow need each other in a circle.\n\nNone of them could ever be the first. Take one of the rules out."
        ),
        "wrong-column-count": ("A line of a table has too few or too many columns.\n\nThe help names the columns."),
        "wrong-digest": (
            "A definition in `tools.lock` is not the one that was approved.\n\nSomebody changed it by hand, or a merge mixed "
            "two. Review what is live with `bailiwick tools review`, and approve it."
        ),
        "wrong-type": ("A value of a YAML file is of another type than its place wants.\n\nThe message says which."),
    }
)
