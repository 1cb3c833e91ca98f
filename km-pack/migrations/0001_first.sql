-- One dialect for SQLite and PostgreSQL. Times are Unix seconds.

CREATE TABLE customers (
    id         TEXT   NOT NULL PRIMARY KEY,
    tier       TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    expires_at BIGINT,
    features   TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- A key is known by its digest only; the hint is its masked form, for people.
CREATE TABLE api_keys (
    digest     TEXT   NOT NULL PRIMARY KEY,
    hint       TEXT   NOT NULL,
    customer   TEXT   NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE INDEX api_keys_customer ON api_keys (customer);

-- The highest number signs. Two servers that make the same number at the same time end up with one key.
CREATE TABLE token_keys (
    number     BIGINT NOT NULL PRIMARY KEY,
    kid        TEXT   NOT NULL UNIQUE,
    seed       TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE events (
    customer    TEXT   NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
    id          TEXT   NOT NULL,
    plugin      TEXT   NOT NULL,
    received_at BIGINT NOT NULL,
    body        TEXT   NOT NULL,
    PRIMARY KEY (customer, id)
);
