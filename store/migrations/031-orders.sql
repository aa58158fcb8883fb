-- What an operator asked this site to sign, under a name for good (`lot/<id>`, `receive/<handoff>`): written by the
-- gateway, which knows the operator, and read by the activity that signs.
CREATE TABLE operator_order (
  name text PRIMARY KEY,
  request jsonb NOT NULL,
  asked timestamptz NOT NULL DEFAULT now()
);
