-- Groups of devices by what their chain says; the query's language is lib/records/group-query.ts.
CREATE TABLE hub_group (
  name        text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  query       text NOT NULL CHECK (length(query) <= 1000),
  -- its devices are kept out
  disabled_at timestamptz,
  -- null: as their CA says
  enrolment   text CHECK (enrolment IN ('first-connect', 'registered')),
  -- what its devices may use; null: everything
  scopes      text[],
  created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER hub_group_told AFTER INSERT OR UPDATE OR DELETE ON hub_group EXECUTE FUNCTION hub_tell_registry();
