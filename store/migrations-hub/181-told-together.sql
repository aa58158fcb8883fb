-- Who changes many devices at once tells of them himself, many in a notification.
DROP TRIGGER hub_device_state_told ON hub_device;
CREATE TRIGGER hub_device_state_told AFTER UPDATE OF state ON hub_device FOR EACH ROW
  WHEN (OLD.state <> NEW.state AND current_setting('countersign.told_together', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION hub_tell_device();
