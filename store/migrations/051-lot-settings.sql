-- What the lot's certificates say where their profile leaves a choice: {days, hardwareType}.
ALTER TABLE lot ADD COLUMN settings jsonb NOT NULL DEFAULT '{}';
