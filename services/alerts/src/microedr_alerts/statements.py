"""The statements that store: each does its part for one row and writes what the stream is to tell.

All of them may be done again with the same row: nothing changes then, and nothing is told.
"""

OUTBOX_CHANNEL = "microedr_outbox"

LOCK_OUTBOX = "SELECT pg_advisory_xact_lock(7307199766203564034)"
"""First in each transaction that writes to the outbox, so that its ids become visible in their order: a reader
that has seen one will never meet a smaller one."""

NOTIFY = f"SELECT pg_notify('{OUTBOX_CHANNEL}', $1)"

STORE_ALERT = """
WITH stored AS (
    INSERT INTO alerts AS a (tenant_id, alert_id, revision, host_id, rule_id, severity, event_unix_ns,
                             raised_unix_ns, stored_unix_ns, brief, alert, search_text)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (tenant_id, alert_id) DO UPDATE SET
        revision = excluded.revision, severity = excluded.severity, event_unix_ns = excluded.event_unix_ns,
        stored_unix_ns = excluded.stored_unix_ns, brief = excluded.brief, alert = excluded.alert,
        search_text = excluded.search_text
    WHERE a.revision < excluded.revision
    RETURNING alert_id, xmax = 0 AS is_new
)
INSERT INTO outbox (tenant_id, at_unix_ns, kind, subject_id)
SELECT $1, $9, CASE WHEN is_new THEN 'alert.raised' ELSE 'alert.updated' END, alert_id::text FROM stored
"""

STORE_HOST = """
INSERT INTO hosts AS h (tenant_id, host_id, at_unix_ns, first_seen_unix_ns, session)
VALUES ($1, $2, $3, $3, $4)
ON CONFLICT (tenant_id, host_id) DO UPDATE SET
    at_unix_ns = greatest(h.at_unix_ns, excluded.at_unix_ns),
    first_seen_unix_ns = least(h.first_seen_unix_ns, excluded.first_seen_unix_ns),
    session = CASE WHEN excluded.at_unix_ns >= h.at_unix_ns THEN excluded.session ELSE h.session END
"""

# Steps of one action come from two topics, so in any order; each fills in what the others did not know.
STORE_STEP = """
WITH step AS (
    INSERT INTO action_steps (tenant_id, action_id, state, state_rank, at_unix_ns, actor, reason, detail,
                              evidence_event_ids)
    VALUES ($1, $2, $12, $13, $14, $15, $16, $17, $18)
    ON CONFLICT DO NOTHING
    RETURNING action_id
), stored AS (
    INSERT INTO actions AS a (tenant_id, action_id, host_id, alert_id, rule_id, type, pid, process_uid, start_boot_ns,
                              exe, trace_id, created_unix_ns, state, state_rank, state_unix_ns, reason, detail)
    SELECT $1, action_id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $14, $12, $13, $14, $16, $17 FROM step
    ON CONFLICT (tenant_id, action_id) DO UPDATE SET
        host_id = coalesce(nullif(a.host_id, ''), excluded.host_id),
        alert_id = coalesce(nullif(a.alert_id, ''), excluded.alert_id),
        rule_id = coalesce(nullif(a.rule_id, ''), excluded.rule_id),
        type = coalesce(nullif(a.type, 0), excluded.type),
        pid = coalesce(nullif(a.pid, 0), excluded.pid),
        process_uid = coalesce(nullif(a.process_uid, ''), excluded.process_uid),
        start_boot_ns = coalesce(nullif(a.start_boot_ns, 0), excluded.start_boot_ns),
        exe = coalesce(nullif(a.exe, ''), excluded.exe),
        trace_id = coalesce(nullif(a.trace_id, ''), excluded.trace_id),
        created_unix_ns = least(a.created_unix_ns, excluded.created_unix_ns),
        (state, state_rank, state_unix_ns, reason, detail) = (
            SELECT s.state, s.state_rank, s.state_unix_ns, s.reason, s.detail
            FROM (VALUES (a.state, a.state_rank, a.state_unix_ns, a.reason, a.detail),
                         (excluded.state, excluded.state_rank, excluded.state_unix_ns, excluded.reason,
                          excluded.detail)) AS s (state, state_rank, state_unix_ns, reason, detail)
            ORDER BY s.state_rank DESC, s.state_unix_ns DESC LIMIT 1)
    RETURNING action_id
)
INSERT INTO outbox (tenant_id, at_unix_ns, kind, subject_id)
SELECT $1, (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint, 'action.updated', action_id FROM stored
"""

STORE = {"alert": STORE_ALERT, "host": STORE_HOST, "action": STORE_STEP}

PRUNE_OUTBOX = """
DELETE FROM outbox WHERE (tenant_id, outbox_id) IN (
    SELECT tenant_id, outbox_id FROM outbox WHERE at_unix_ns < $1 ORDER BY at_unix_ns LIMIT 10000
)
"""
