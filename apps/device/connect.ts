import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { createSecureContext, type SecureContext, type SecureContextOptions } from "node:tls";
import azureCommon from "azure-iot-common";
import azureDevice from "azure-iot-device";
import azureMqtt from "azure-iot-device-mqtt";
import azureMqttBase from "azure-iot-mqtt-base";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { assertDeviceId } from "../../lib/domain/ids.ts";
import { type Reading, reading } from "./reading.ts";

/** How the TLS client proves the device's key: in use always a key in a token, by OpenSSL's engine. */
export type DeviceCredentials = Pick<SecureContextOptions, "key" | "privateKeyEngine" | "privateKeyIdentifier">;

/** @param engineUri RFC 7512 URI of the key, its PIN named by file */
export function tokenCredentials(engineUri: string): DeviceCredentials {
  return { privateKeyEngine: "pkcs11", privateKeyIdentifier: engineUri };
}

export interface DeviceConnection {
  deviceId: string;
  /** `host` or `host:port`, as in a connection string's HostName. */
  hub: string;
  /** PEM: what the hub's server certificate is checked against. */
  ca: string;
  /** PEM, leaf first, as read out of the device's image: all of it is sent. */
  chain: string;
  credentials: DeviceCredentials;
  /** How many telemetry messages; 5 unless given. */
  messages?: number;
  /** Between two messages, milliseconds; all at once unless given. */
  intervalMs?: number;
  /** For the whole visit, milliseconds; 30 s unless given. */
  timeoutMs?: number;
  /** Told of each message when the hub has acknowledged it. */
  onStored?: (stored: StoredReading) => void;
}

export interface StoredReading {
  reading: Reading;
  /** from sending to the acknowledgement */
  ms: number;
}

export interface ConnectResult {
  deviceId: string;
  connectMs: number;
  /** Messages the hub has acknowledged: stored durably. */
  acknowledged: number;
}

// The very mqtt the SDK brings: `connect` is its own, with our key added.
const mqtt = createRequire(createRequire(import.meta.url).resolve("azure-iot-mqtt-base"))("mqtt") as {
  connect(uri: string, options: Record<string, unknown>): unknown;
};

/**
 * One device's visit: connects with the public Azure IoT device SDK as it is published, sends telemetry, waits for the
 * acknowledgements, disconnects. Doesn't retry.
 * @throws CountersignError `hub-refused` when the hub says no, `component-unreachable`, `timeout`; `pem-invalid`,
 *   `certificate-invalid` (the chain is for another key), `hsm-unavailable`
 */
export async function connectDevice(connection: DeviceConnection): Promise<ConnectResult> {
  const deviceId = assertDeviceId(connection.deviceId);
  if (!/^[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?$/.test(connection.hub)) {
    throw new CountersignError("input-invalid", "name the hub as HOST or HOST:PORT");
  }
  const context = tlsContext(connection);
  const client = azureDevice.Client.fromConnectionString(
    `HostName=${connection.hub};DeviceId=${deviceId};x509=true`,
    transportWith(context),
  );
  // The SDK insists on a key's text; the transport above takes the token's key in its place.
  await client.setOptions({ cert: connection.chain, key: "in the token", ca: connection.ca });
  client.setRetryPolicy(new azureCommon.NoRetry());
  // Said again by the failing call itself; unheard it would end the process.
  client.on("error", () => undefined);

  let timer: NodeJS.Timeout | undefined;
  const timeoutMs = connection.timeoutMs ?? 30_000;
  const expired = new Promise<never>((_resolve, reject) => {
    const message = `${deviceId}: the hub at ${connection.hub} took longer than ${timeoutMs} ms`;
    timer = setTimeout(() => reject(new CountersignError("timeout", message)), timeoutMs);
  });
  try {
    return await Promise.race([expired, visit(client, connection)]);
  } catch (error) {
    throw connectError(error, connection);
  } finally {
    clearTimeout(timer);
    await Promise.race([client.close().catch(() => undefined), new Promise((done) => setTimeout(done, 2_000).unref())]);
  }
}

async function visit(client: azureDevice.Client, connection: DeviceConnection): Promise<ConnectResult> {
  const { deviceId, messages = 5, intervalMs = 0, onStored } = connection;
  const started = performance.now();
  await client.open();
  const connectMs = Math.round(performance.now() - started);
  const send = async (number: number): Promise<void> => {
    const since = performance.now();
    const said = reading(deviceId, number);
    // Resolves with its PUBACK.
    await client.sendEvent(messageOf(said));
    onStored?.({ reading: said, ms: Math.round(performance.now() - since) });
  };
  const numbers = Array.from({ length: messages }, (_, index) => index + 1);
  // All at once: the hub stores what comes together in one commit.
  if (intervalMs === 0) await Promise.all(numbers.map(send));
  else {
    for (const number of numbers) {
      if (number > 1) await sleep(intervalMs);
      await send(number);
    }
  }
  return { deviceId, connectMs, acknowledged: messages };
}

function messageOf(said: Reading): azureDevice.Message {
  const message = new azureDevice.Message(JSON.stringify(said));
  message.messageId = `${said.deviceId}-${said.messageId}`;
  message.contentType = "application/json";
  message.contentEncoding = "utf-8";
  message.properties.add("temperatureAlert", said.temperature > 30 ? "true" : "false");
  return message;
}

/** Made before the SDK connects: what is wrong with key or chain is thrown here, and not inside its timers. */
function tlsContext({ deviceId, chain, ca, credentials }: DeviceConnection): SecureContext {
  try {
    return createSecureContext({ cert: chain, ca, ...credentials, minVersion: "TLSv1.2" });
  } catch (cause) {
    const { code, reason } = cause as { code?: string; reason?: string };
    const said = reason ?? (cause instanceof Error ? cause.message : "no reason given");
    if (code === "ERR_OSSL_X509_KEY_VALUES_MISMATCH") {
      const message = `${deviceId}: the chain's first certificate is not for the key in the device's token`;
      throw new CountersignError("certificate-invalid", message, { cause });
    }
    if (/PEM|ASN1|X509/.test(code ?? "")) {
      throw new CountersignError("pem-invalid", `${deviceId}: chain or CA can't be used (${said})`, { cause });
    }
    throw new CountersignError("hsm-unavailable", `${deviceId}: the key in the token can't be used (${said})`, {
      cause,
    });
  }
}

/** The SDK's MQTT transport; only key and chain come from `context` instead of from text. */
function transportWith(context: SecureContext): typeof azureMqtt.Mqtt {
  const provider = {
    connect(uri: string, options: Record<string, unknown>): unknown {
      const { key: _placeholder, cert: _inContext, passphrase: _none, ...rest } = options;
      return mqtt.connect(uri, { ...rest, secureContext: context });
    },
  };
  return class extends azureMqtt.Mqtt {
    constructor(authentication: ConstructorParameters<typeof azureMqtt.Mqtt>[0]) {
      super(authentication, new azureMqttBase.MqttBase(provider));
    }
  };
}

function connectError(error: unknown, { deviceId, hub }: DeviceConnection): CountersignError {
  if (isCountersignError(error)) return error;
  const said = error instanceof Error ? error.message : String(error);
  // The SDK calls every failure of a first connection "Not authorized"; only a CONNACK says "Connection refused:".
  if (/Connection refused: (?!Server unavailable)/.test(said)) {
    return new CountersignError("hub-refused", `${deviceId}: the hub at ${hub} refuses it (${said})`, { cause: error });
  }
  const message = `${deviceId}: no connection to the hub at ${hub} (${said})`;
  return new CountersignError("component-unreachable", message, { cause: error });
}
