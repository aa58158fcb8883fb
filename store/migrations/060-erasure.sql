-- Whose value an opening is: one that was sent for a device and refused is erased with the others.
ALTER TABLE opening ADD COLUMN device text;
UPDATE opening o SET device = i.device FROM installation i WHERE o.commitment IN (i.place, i.time);
CREATE INDEX opening_by_device ON opening (device);

-- What was erased, when and by whom; what it was is gone.
CREATE TABLE erasure (
  commitment text PRIMARY KEY,
  device text NOT NULL,
  domain text NOT NULL,
  erased timestamptz NOT NULL DEFAULT now(),
  erased_by text NOT NULL
);
CREATE INDEX erasure_by_device ON erasure (device);
