-- Alerts, hosts, actions, the audit of analysts and the outbox of the stream
-- depends:

-- migrate: apply

-- Every key begins with the tenant: a unique key that did not would tell one tenant of another's rows.
CREATE TABLE alerts (
    tenant_id text NOT NULL,
    alert_id uuid NOT NULL,
    revision bigint NOT NULL,
    host_id text NOT NULL,
    rule_id text NOT NULL,
    severity smallint NOT NULL,
    event_unix_ns bigint NOT NULL,
    -- Of the first revision stored; it never changes, so that pages stay as they are.
    raised_unix_ns bigint NOT NULL,
    stored_unix_ns bigint NOT NULL,
    -- What lists show, JSON; the whole alert, protobuf.
    brief jsonb NOT NULL,
    alert bytea NOT NULL,
    search_text text NOT NULL,
    -- The analyst's part: no revision touches it.
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'acked', 'closed')),
    state_by text NOT NULL DEFAULT '',
    state_unix_ns bigint NOT NULL DEFAULT 0,
    state_note text NOT NULL DEFAULT '',
    resolution text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, alert_id)
);

CREATE INDEX alerts_newest ON alerts (tenant_id, raised_unix_ns DESC, alert_id DESC);

CREATE INDEX alerts_newest_of_host ON alerts (tenant_id, host_id, raised_unix_ns DESC, alert_id DESC);

CREATE INDEX alerts_newest_of_rule ON alerts (tenant_id, rule_id, raised_unix_ns DESC, alert_id DESC);

CREATE INDEX alerts_newest_open ON alerts (tenant_id, raised_unix_ns DESC, alert_id DESC) WHERE state = 'open';

CREATE TABLE hosts (
    tenant_id text NOT NULL,
    host_id text NOT NULL,
    at_unix_ns bigint NOT NULL,
    first_seen_unix_ns bigint NOT NULL,
    -- A host session, JSON.
    session jsonb NOT NULL,
    PRIMARY KEY (tenant_id, host_id)
);

CREATE TABLE actions (
    tenant_id text NOT NULL,
    action_id text NOT NULL,
    host_id text NOT NULL,
    alert_id text NOT NULL,
    rule_id text NOT NULL,
    type smallint NOT NULL,
    pid bigint NOT NULL,
    process_uid bytea NOT NULL,
    start_boot_ns bigint NOT NULL,
    exe text NOT NULL,
    trace_id text NOT NULL,
    -- Of the earliest step seen.
    created_unix_ns bigint NOT NULL,
    -- The furthest step: by rank, then by time. Steps come from two topics, in any order.
    state smallint NOT NULL,
    state_rank smallint NOT NULL,
    state_unix_ns bigint NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (tenant_id, action_id)
);

CREATE INDEX actions_newest ON actions (tenant_id, created_unix_ns DESC, action_id DESC);

CREATE INDEX actions_of_alert ON actions (tenant_id, alert_id);

CREATE TABLE action_steps (
    tenant_id text NOT NULL,
    action_id text NOT NULL,
    state smallint NOT NULL,
    state_rank smallint NOT NULL,
    at_unix_ns bigint NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    evidence_event_ids uuid[] NOT NULL,
    PRIMARY KEY (tenant_id, action_id, state, at_unix_ns, actor)
);

CREATE TABLE audit (
    tenant_id text NOT NULL,
    audit_id bigint GENERATED ALWAYS AS IDENTITY,
    at_unix_ns bigint NOT NULL,
    principal text NOT NULL,
    -- 'alert.ack', 'alert.close', 'action.request'
    verb text NOT NULL,
    subject_id text NOT NULL,
    -- Where the request came from.
    peer text NOT NULL,
    detail jsonb NOT NULL,
    PRIMARY KEY (tenant_id, audit_id)
);

CREATE INDEX audit_of_subject ON audit (tenant_id, subject_id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TRIGGER audit_never_emptied BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What happened, for the stream, written in the transaction in which it happened. Ids grow in the order of
-- commits: writers hold an advisory lock from their first row to their commit.
CREATE TABLE outbox (
    tenant_id text NOT NULL,
    outbox_id bigint GENERATED ALWAYS AS IDENTITY,
    at_unix_ns bigint NOT NULL,
    -- 'alert.raised', 'alert.updated', 'alert.acked', 'alert.closed', 'action.updated'
    kind text NOT NULL,
    subject_id text NOT NULL,
    PRIMARY KEY (tenant_id, outbox_id)
);

CREATE INDEX outbox_oldest ON outbox (tenant_id, at_unix_ns);

-- A transaction sees the tenant it named and no other; one that named none sees nothing. The owner too.
ALTER TABLE alerts ENABLE ROW LEVEL SECURITY;

ALTER TABLE alerts FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON alerts USING (tenant_id = current_setting('microedr.tenant', true));

ALTER TABLE hosts ENABLE ROW LEVEL SECURITY;

ALTER TABLE hosts FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON hosts USING (tenant_id = current_setting('microedr.tenant', true));

ALTER TABLE actions ENABLE ROW LEVEL SECURITY;

ALTER TABLE actions FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON actions USING (tenant_id = current_setting('microedr.tenant', true));

ALTER TABLE action_steps ENABLE ROW LEVEL SECURITY;

ALTER TABLE action_steps FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON action_steps USING (tenant_id = current_setting('microedr.tenant', true));

ALTER TABLE audit ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON audit USING (tenant_id = current_setting('microedr.tenant', true));

ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;

ALTER TABLE outbox FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON outbox USING (tenant_id = current_setting('microedr.tenant', true));

GRANT USAGE ON SCHEMA public TO microedr_app;

GRANT SELECT, INSERT, UPDATE ON alerts, hosts, actions TO microedr_app;

GRANT SELECT, INSERT ON action_steps, audit TO microedr_app;

GRANT SELECT, INSERT, DELETE ON outbox TO microedr_app;

-- migrate: rollback
