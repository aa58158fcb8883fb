import azureDevice from "azure-iot-device";
import azureMqtt from "azure-iot-device-mqtt";
import { type TestHub } from "./hub-process.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "./test-pki.ts";

export interface TestDevice {
  readonly id: string;
  /** PEM, leaf first */
  readonly chain: string;
  /** PEM */
  readonly key: string;
}

/** @param above its issuers, nearest first; without the registered one, if that is a root */
export async function testDevice(id: string, ...above: [TestCertificate, ...TestCertificate[]]): Promise<TestDevice> {
  const leaf = await testCertificate(`CN=${id}`, { issuer: above[0], eku: [CLIENT_AUTH] });
  return { id, chain: [leaf, ...above].map(({ pem }) => pem).join(""), key: leaf.keyPem };
}

/** Azure's Node SDK as it is published, connected. */
export async function connectAzure(
  hub: Pick<TestHub, "address" | "infraCa">,
  device: TestDevice,
): Promise<azureDevice.Client> {
  const text = `HostName=${hub.address};DeviceId=${device.id};x509=true`;
  const client = azureDevice.Client.fromConnectionString(text, azureMqtt.Mqtt);
  await client.setOptions({ cert: device.chain, key: device.key, ca: hub.infraCa.pem });
  client.on("error", () => undefined);
  await client.open();
  return client;
}

/** Looks again, for at most five seconds, until it is as it should be; then at least it shows what it was. */
export async function eventually<T>(look: () => Promise<T>, until: (value: T) => boolean): Promise<T> {
  for (let i = 0; i < 100; i++) {
    const value = await look();
    if (until(value)) return value;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return look();
}
