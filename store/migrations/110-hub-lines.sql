-- A line: this site's CA as one of its hubs knows it, through all its certificates.
CREATE TABLE hub_line (
  hub text NOT NULL,
  line text NOT NULL,
  created timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (hub, line)
);

-- The certificates of a line, by the names that the hub has them under; the last one is the CA's present one.
CREATE TABLE hub_line_ca (
  hub text NOT NULL,
  name text NOT NULL,
  line text NOT NULL,
  ordinal integer NOT NULL CHECK (ordinal >= 1),
  certificate bytea NOT NULL,
  ca_sha256 text NOT NULL,
  state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'registered', 'refused', 'retired')),
  -- by the place that gave it, SHA-256 of the verification code that was signed
  codes jsonb NOT NULL DEFAULT '{}',
  error_code text,
  error_message text,
  created timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (hub, name),
  UNIQUE (hub, line, ordinal),
  UNIQUE (hub, line, ca_sha256),
  FOREIGN KEY (hub, line) REFERENCES hub_line (hub, line)
);

-- Enrollment groups that take a line's devices, whatever certificate its CA has.
CREATE TABLE hub_line_enrollment (
  hub text NOT NULL,
  name text NOT NULL,
  line text NOT NULL,
  PRIMARY KEY (hub, name),
  FOREIGN KEY (hub, line) REFERENCES hub_line (hub, line)
);
