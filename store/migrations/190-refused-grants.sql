-- The child's message that said no to the grant in `act_leaf_hash`: what is sent after it is another message.
ALTER TABLE delegation ADD COLUMN refused_by uuid;
