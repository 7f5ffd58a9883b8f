-- Accounts for a ledger in PostgreSQL: run by psql as whoever owns its tables, in the ledger's database, after the first start
-- made them (or `bailiwick audit verify` saw them), and again after an update that made new ones.  Names by -v, as
--
--     psql -v owner=ledger_owner -v gateway=bailiwick -v auditor=auditor -f ledger-roles.sql ledger
--
-- Where each tenant has a log (`ledger.logs: tenant`), `bailiwick audit logs --make` makes those that are not there, and this is
-- run once for each schema: PGOPTIONS='-c search_path=log_t_acme' psql …, log_root among them.
--
-- owner    nobody's login: owns the tables and their triggers from now on.
-- gateway  may add records and do the few things that the ledger's own rules allow; not change a record, nor take a trigger away.
-- auditor  may read.
-- The accounts `gateway` and `auditor` are made without a password where they are not there: how they log in is yours to say.

SELECT format('CREATE ROLE %I NOLOGIN', :'owner') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
SELECT format('CREATE ROLE %I LOGIN', :'gateway') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'gateway') \gexec
SELECT format('CREATE ROLE %I LOGIN', :'auditor') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'auditor') \gexec

SELECT format('GRANT USAGE ON SCHEMA %I TO %I, %I', current_schema(), :'gateway', :'auditor') \gexec

SELECT format('ALTER TABLE %I OWNER TO %I', tablename, :'owner') FROM pg_tables
WHERE schemaname = current_schema() AND tablename LIKE 'ledger\_%' \gexec
SELECT format('REVOKE ALL ON %I FROM PUBLIC, %I, %I', tablename, :'gateway', :'auditor') FROM pg_tables
WHERE schemaname = current_schema() AND tablename LIKE 'ledger\_%' \gexec
SELECT format('GRANT SELECT ON %I TO %I, %I', tablename, :'gateway', :'auditor') FROM pg_tables
WHERE schemaname = current_schema() AND tablename LIKE 'ledger\_%' \gexec
SELECT format('GRANT INSERT ON %I TO %I', tablename, :'gateway') FROM pg_tables
WHERE schemaname = current_schema() AND tablename LIKE 'ledger\_%' AND tablename <> 'ledger_version' \gexec

GRANT UPDATE ON ledger_head, ledger_signed, ledger_anchors, ledger_sweeps, ledger_segments TO :"gateway";
GRANT DELETE ON ledger_open_calls, ledger_subjects, ledger_openings, ledger_holds, ledger_sweeps TO :"gateway";
-- Retiring old records deletes those that a segment was sealed of, which the triggers see to.  Without it, leave this line out.
GRANT DELETE ON ledger_leaves TO :"gateway";
SELECT format('ALTER FUNCTION %s OWNER TO %I', oid::regprocedure, :'owner') FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'ledger\_%' \gexec
