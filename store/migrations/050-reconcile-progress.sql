-- How far reconciliation has come, so that a round costs by what is new and not by what there is.
CREATE TABLE reconcile_progress (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  -- issuance created before it was looked at, and none of it was left open
  settled_before timestamptz NOT NULL,
  -- the last row of the slow pass over everything, again and again
  device text NOT NULL,
  profile text NOT NULL
);
INSERT INTO reconcile_progress (settled_before, device, profile) VALUES ('-infinity', '', '');

-- A summary of block ranges: rows come in order of this time, so it stays small and costs an insert next to nothing; no
-- later update of a row touches it.
CREATE INDEX issuance_created ON issuance USING brin (created) WITH (pages_per_range = 16, autosummarize = on);
