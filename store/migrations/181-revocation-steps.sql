-- How often a certificate is held and lifted is bounded where it is ordered: its end must find room.
ALTER TABLE revocation DROP CONSTRAINT revocation_step_check, ADD CHECK (step >= 1);
