-- What a tenant's configuration file leaves to operators, the edge's own keys, and the feed by
-- which every node follows what the others write. Plain SQL that SQLite and PostgreSQL both
-- take: digests are lower-case hex, DER is base64, times are Unix seconds, yes and no are 1
-- and 0. Each row carries the version that it was last written in.

-- One row. Every transaction that writes takes the next version first, and with it the row's
-- lock: transactions commit in the order of their versions.
CREATE TABLE registry_version (
    version BIGINT NOT NULL,
    -- Deletions up to this version are forgotten: who has seen less must load everything.
    pruned  BIGINT NOT NULL
);
INSERT INTO registry_version (version, pruned) VALUES (0, 0);

-- Which rows are gone, since the feed finds only those that are there. `name`: the row's key
-- within its tenant.
CREATE TABLE deletions (
    version BIGINT NOT NULL,
    kind    TEXT   NOT NULL CHECK (kind IN ('device', 'pin', 'anchor', 'option', 'signing_key')),
    tenant  TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (version, kind, tenant, name)
);
CREATE INDEX deletions_by_time ON deletions (at);

ALTER TABLE devices ADD COLUMN device_type TEXT;
ALTER TABLE devices ADD COLUMN name TEXT;
ALTER TABLE devices ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
CREATE INDEX devices_by_version ON devices (version, tenant, device_id);
-- Few of many: to list them takes no look at the others.
CREATE INDEX devices_blocked ON devices (tenant, device_id) WHERE status = 'blocked';

-- End-entity certificates that stand for a device without any anchor.
CREATE TABLE pins (
    tenant      TEXT   NOT NULL,
    leaf_sha256 TEXT   NOT NULL CHECK (length(leaf_sha256) = 64),
    device_id   TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    PRIMARY KEY (tenant, leaf_sha256),
    FOREIGN KEY (tenant, device_id) REFERENCES devices (tenant, device_id)
);
CREATE INDEX pins_by_device ON pins (tenant, device_id, leaf_sha256);
CREATE INDEX pins_by_version ON pins (version, tenant, leaf_sha256);

CREATE TABLE anchors (
    tenant               TEXT   NOT NULL,
    sha256               TEXT   NOT NULL CHECK (length(sha256) = 64),
    der                  TEXT   NOT NULL,
    name                 TEXT   NOT NULL,
    status               TEXT   NOT NULL CHECK (status IN ('enabled', 'disabled')),
    auto_registration    BIGINT NOT NULL CHECK (auto_registration IN (0, 1)),
    identity             TEXT   NOT NULL,
    added_at             BIGINT NOT NULL,
    changed_at           BIGINT NOT NULL,
    possession_confirmed BIGINT NOT NULL CHECK (possession_confirmed IN (0, 1)),
    possession_code      TEXT,
    possession_until     BIGINT NOT NULL,
    version              BIGINT NOT NULL,
    PRIMARY KEY (tenant, sha256)
);
CREATE INDEX anchors_by_version ON anchors (version, tenant, sha256);

-- A serial number is revoked under every anchor of its tenant, and for good.
CREATE TABLE revocations (
    tenant     TEXT   NOT NULL,
    -- Hex in upper case, no leading zeros.
    serial     TEXT   NOT NULL,
    revoked_at BIGINT NOT NULL,
    version    BIGINT NOT NULL,
    PRIMARY KEY (tenant, serial)
);
CREATE INDEX revocations_by_version ON revocations (version, tenant, serial);

CREATE TABLE tenant_options (
    tenant   TEXT   NOT NULL,
    category TEXT   NOT NULL,
    name     TEXT   NOT NULL,
    value    TEXT   NOT NULL,
    version  BIGINT NOT NULL,
    PRIMARY KEY (tenant, category, name)
);
CREATE INDEX tenant_options_by_version ON tenant_options (version, tenant, category, name);

CREATE TABLE signing_keys (
    kid          TEXT   NOT NULL PRIMARY KEY,
    algorithm    TEXT   NOT NULL,
    -- The private key, encrypted by the edge; the database never has what opens it.
    sealed       TEXT   NOT NULL,
    published_at BIGINT NOT NULL,
    sign_from    BIGINT NOT NULL,
    version      BIGINT NOT NULL
);

-- One row for each transaction that somebody asked for; the id is its version. Rows go when
-- they are older than 400 days.
CREATE TABLE audit (
    id     BIGINT NOT NULL PRIMARY KEY,
    at     BIGINT NOT NULL,
    actor  TEXT   NOT NULL,
    tenant TEXT,
    action TEXT   NOT NULL,
    target TEXT   NOT NULL,
    detail TEXT   NOT NULL
);
CREATE INDEX audit_by_tenant ON audit (tenant, id);
CREATE INDEX audit_by_time ON audit (at);
