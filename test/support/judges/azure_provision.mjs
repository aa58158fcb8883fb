// Azure's Node SDK as it is published: provisioning, then (not with registerOnly) a message to the assigned hub. It takes the CA from
// NODE_EXTRA_CA_CERTS alone, so it runs in a process of its own.
import { readFileSync } from "node:fs";
import azureDevice from "azure-iot-device";
import azureMqtt from "azure-iot-device-mqtt";
import azureProvisioning from "azure-iot-provisioning-device";
import azureProvisioningMqtt from "azure-iot-provisioning-device-mqtt";
import azureX509 from "azure-iot-security-x509";

const options = JSON.parse(process.argv[2]);
const x509 = { cert: readFileSync(options.cert, "utf8"), key: readFileSync(options.key, "utf8") };
const security = new azureX509.X509Security(options.deviceId, x509);
const client = azureProvisioning.ProvisioningDeviceClient.create(
  options.provisioning,
  options.idScope,
  new azureProvisioningMqtt.Mqtt(),
  security,
);
try {
  const state = await client.register();
  if (!options.registerOnly) await send(state);
  console.log(JSON.stringify({ hub: state.assignedHub, deviceId: state.deviceId, status: state.status }));
  process.exit(0);
} catch (error) {
  console.log(JSON.stringify({ error: error.message, name: error.name }));
  process.exit(1);
}

async function send(state) {
  const text = `HostName=${state.assignedHub};DeviceId=${state.deviceId};x509=true`;
  const device = azureDevice.Client.fromConnectionString(text, azureMqtt.Mqtt);
  await device.setOptions(x509);
  await device.open();
  await device.sendEvent(new azureDevice.Message("{}"));
  await device.close();
}
