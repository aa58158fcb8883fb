-- So that what is due is found without reading what is kept for good.
CREATE INDEX batch_emptied ON batch (received) WHERE state = 'done' AND items <> '';
CREATE INDEX outbox_emptied ON outbox (delivered) WHERE state = 'delivered' AND body <> '';
CREATE INDEX inbox_emptied ON inbox (applied) WHERE applied IS NOT NULL AND body <> '';
