-- The devices of every tenant. Plain SQL that SQLite and PostgreSQL both take: digests are
-- lower-case hex, times are Unix seconds.
CREATE TABLE devices (
    tenant         TEXT   NOT NULL,
    device_id      TEXT   NOT NULL,
    status         TEXT   NOT NULL CHECK (status IN ('active', 'blocked')),
    registered_by  TEXT   NOT NULL CHECK (registered_by IN ('auto', 'bulk', 'manual')),
    registered_at  BIGINT NOT NULL,
    -- When the status was last set.
    changed_at     BIGINT NOT NULL,
    -- What an automatic registration was made with; a later leaf does not change it.
    leaf_sha256    TEXT   CHECK (length(leaf_sha256) = 64),
    anchor_sha256  TEXT   CHECK (length(anchor_sha256) = 64),
    PRIMARY KEY (tenant, device_id)
);

-- One row that is written to find out whether writing works again after a failure.
CREATE TABLE write_probe (
    writes BIGINT NOT NULL
);
INSERT INTO write_probe (writes) VALUES (0);
