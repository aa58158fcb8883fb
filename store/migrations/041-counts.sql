-- Refusals are few: what a lot's state counts of them is found without reading everything that was answered.
CREATE INDEX batch_result_refused ON batch_result (batch) WHERE code IS NOT NULL;
CREATE INDEX ledger_act_refused ON ledger_act (retry_key) WHERE refused IS NOT NULL;
