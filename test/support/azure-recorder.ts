import { createHash, createHmac, createPublicKey, verify, constants, X509Certificate } from "node:crypto";
import { Agent, createServer, type AgentOptions } from "node:https";
import type { IncomingMessage, ServerResponse } from "node:http";
import { writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { connect } from "node:tls";
import { azureHub } from "../../services/hub/azure/hub.ts";
import { azureHubSettings, resolveAzureHub } from "../../services/hub/azure/settings.ts";
import type { HubRegistry } from "../../services/hub/registry.ts";
import { tempDir } from "./index.ts";
import { SERVER_AUTH, testCertificate, type TestCertificate } from "./test-pki.ts";

/**
 * Just enough of Azure Resource Manager, of an IoT Hub's registry and of a provisioning service's, with etags: written
 * from Microsoft's REST reference and from what its SDKs send and take. Records every request, and fails on demand.
 */

export const AZURE = {
  subscription: "11111111-2222-3333-4444-555555555555",
  resourceGroup: "rg-lines",
  hub: "line-1",
  dps: "line-1-dps",
  tenant: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
  clientId: "99999999-8888-7777-6666-555555555555",
  secret: "s3cret~of-the.principal_",
  hubKey: Buffer.from("a key of the hub's registry policy").toString("base64"),
  dpsKey: Buffer.from("a key of the provisioning policy").toString("base64"),
} as const;
/** A hub's settings for the recorder at `url`, before they are parsed; its secrets in files of these names. */
export const azureSettings = (
  url: string,
  files = { secret: "secret", hubKey: "hub.key", dpsKey: "dps.key", ca: "ca.pem" },
) => ({
  kind: "azure" as const,
  subscription: AZURE.subscription,
  resourceGroup: AZURE.resourceGroup,
  principal: { tenant: AZURE.tenant, clientId: AZURE.clientId, secretFile: files.secret },
  iotHub: { name: AZURE.hub, url, access: { keyFile: files.hubKey } },
  provisioning: { name: AZURE.dps, url, access: { keyFile: files.dpsKey } },
  management: url,
  login: url,
  caFile: files.ca,
});

/** The adapter's hub at the recorder, its secrets in files of a folder of its own. */
export function recorderHub(azure: Pick<AzureRecorder, "url" | "ca">): HubRegistry {
  const folder = tempDir("azure");
  const files = { "ca.pem": azure.ca.pem, secret: AZURE.secret, "hub.key": AZURE.hubKey, "dps.key": AZURE.dpsKey };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text, { mode: 0o600 });
  const settings = azureHubSettings.parse(azureSettings(azure.url));
  return azureHub(resolveAzureHub(settings, (name) => join(folder, name)));
}

export const HUB_HOST = `${AZURE.hub}.azure-devices.net`;
export const DPS_HOST = `${AZURE.dps}.azure-devices-provisioning.net`;

export interface Recorded {
  readonly method: string;
  readonly path: string;
  readonly query: Readonly<Record<string, string>>;
  readonly ifMatch: string | undefined;
  readonly authorization: string | undefined;
  readonly contentType: string | undefined;
  readonly body: unknown;
  readonly answered: number;
}

/** Happens to the next request that it is for. */
export interface Fault {
  readonly on: (request: { method: string; path: string }) => boolean;
  /** the request is carried out first, only its answer is another */
  readonly after?: boolean;
  readonly answer:
    | "cut"
    | { status: number; headers?: Record<string, string>; body?: string }
    /** bytes without end */
    | "flood";
}

interface CertificateEntry {
  name: string;
  etag: string;
  properties: Record<string, unknown>;
  pem: string;
  code?: string;
}

export interface AzureRecorder {
  readonly url: string;
  readonly ca: TestCertificate;
  readonly requests: Recorded[];
  readonly faults: Fault[];
  readonly certificates: Map<string, CertificateEntry>;
  readonly devices: Map<string, Record<string, unknown>>;
  readonly groups: Map<string, Record<string, unknown>>;
  /** individual ones */
  readonly enrollments: Map<string, Record<string, unknown>>;
  /** what a principal's assertion is checked by; without it only the secret is taken */
  principalCertificate: string | undefined;
  tokensGiven: number;
  /** every request is cut off, unseen */
  away: boolean;
  /** Leads a client here whatever host it names. */
  agent(): Agent;
  close(): Promise<void>;
}

class Refused extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export async function startAzureRecorder(): Promise<AzureRecorder> {
  const ca = await testCertificate("CN=recorder CA", { ca: true, pathLength: 0 });
  const names = ["localhost", HUB_HOST, DPS_HOST].map((value) => ({ type: "dns", value }) as const);
  const san = [...names, { type: "ip", value: "127.0.0.1" } as const];
  const server = await testCertificate("CN=recorder", { issuer: ca, eku: [SERVER_AUTH], san });
  const token = "eyJ0.access-token_of.the-recorder";
  let tags = 0;
  const etag = (): string => `"tag-${++tags}"`;
  // The registries' tags are given bare, base64 as Azure's are.
  const bareTag = (): string => Buffer.from(`tag-${++tags}`).toString("base64");

  const recorder: Omit<AzureRecorder, "url" | "agent" | "close"> = {
    ca,
    requests: [],
    faults: [],
    certificates: new Map(),
    devices: new Map(),
    groups: new Map(),
    enrollments: new Map(),
    principalCertificate: undefined,
    tokensGiven: 0,
    away: false,
  };

  function signIn(path: string, form: URLSearchParams): object {
    if (path !== `/${AZURE.tenant}/oauth2/v2.0/token`) throw new Refused(404, "no such tenant");
    const assertion = form.get("client_assertion");
    const known =
      assertion === null
        ? form.get("client_secret") === AZURE.secret
        : proven(assertion, recorder.principalCertificate);
    const right =
      form.get("grant_type") === "client_credentials" &&
      form.get("client_id") === AZURE.clientId &&
      form.get("scope") === `${url}/.default`;
    if (!known || !right) throw new Refused(401, "invalid_client");
    recorder.tokensGiven++;
    return { token_type: "Bearer", expires_in: 3599, ext_expires_in: 3599, access_token: token };
  }

  function certificates(method: string, path: string, ifMatch: string | undefined, body: unknown): [number, unknown] {
    const [, base, name, verb] = /^(.*\/certificates)(?:\/([^/]+))?(?:\/([^/]+))?$/.exec(path) ?? [];
    if (base === undefined) throw new Refused(404, "ResourceNotFound");
    if (name === undefined) {
      const value = [...recorder.certificates]
        .filter(([key]) => key.startsWith(`${base}/`))
        .map(([, one]) => shown(one));
      return [200, { value }];
    }
    const key = `${base}/${name}`;
    const held = recorder.certificates.get(key);
    if (method === "PUT" && verb === undefined) {
      const { properties } = body as { properties: { certificate: string } };
      if (held !== undefined && ifMatch !== held.etag) throw new Refused(412, "IfMatch");
      const pem = Buffer.from(properties.certificate, "base64").toString();
      const parsed = new X509Certificate(pem);
      const entry: CertificateEntry = {
        name,
        etag: etag(),
        pem,
        properties: {
          subject: parsed.subject,
          expiry: parsed.validToDate.toUTCString(),
          thumbprint: createHash("sha1").update(parsed.raw).digest("hex").toUpperCase(),
          isVerified: false,
          created: new Date().toUTCString(),
          updated: new Date().toUTCString(),
        },
      };
      recorder.certificates.set(key, entry);
      return [200, shown(entry)];
    }
    if (held === undefined) throw new Refused(404, "CertificateNotFound");
    if (method === "GET") return [200, shown(held)];
    if (ifMatch === undefined) throw new Refused(400, "If-Match is required");
    if (ifMatch !== held.etag && ifMatch !== "*") throw new Refused(412, "IfMatch");
    if (method === "DELETE") {
      recorder.certificates.delete(key);
      return [200, undefined];
    }
    held.etag = etag();
    if (verb === "generateVerificationCode") {
      held.code = createHash("sha256").update(held.etag).digest("hex").toUpperCase().slice(0, 48);
      return [200, { ...shown(held), properties: { ...held.properties, verificationCode: held.code } }];
    }
    if (verb !== "verify") throw new Refused(404, "no such action");
    const proof = new X509Certificate(Buffer.from((body as { certificate: string }).certificate, "base64"));
    const ca = new X509Certificate(held.pem);
    if (proof.subject !== `CN=${held.code}` || !proof.verify(ca.publicKey))
      throw new Refused(400, "proof of possession");
    held.properties["isVerified"] = true;
    return [200, shown(held)];
  }

  function replace(
    map: Map<string, Record<string, unknown>>,
    id: string,
    method: string,
    ifMatch: string | undefined,
    body: unknown,
    exists: number,
  ): [number, unknown] {
    const held = map.get(id);
    const bare = ifMatch?.replaceAll('"', "");
    if (held !== undefined && bare !== undefined && bare !== "*" && bare !== String(held["etag"])) {
      throw new Refused(412, "PreconditionFailed");
    }
    if (method === "PUT") {
      if (held !== undefined && ifMatch === undefined) throw new Refused(exists, "already exists");
      if (held === undefined && ifMatch !== undefined) throw new Refused(404, "not found");
      const entry = { ...(body as object), etag: bareTag() };
      map.set(id, entry);
      return [200, entry];
    }
    if (held === undefined) throw new Refused(404, "not found");
    if (method === "GET") return [200, held];
    map.delete(id);
    return [204, undefined];
  }

  function route(request: Omit<Recorded, "answered">, raw: string): [number, unknown] {
    const { method, path, query, ifMatch, authorization, body } = request;
    if (path.endsWith("/oauth2/v2.0/token")) return [200, signIn(path, new URLSearchParams(raw))];
    if (path.startsWith("/subscriptions/")) {
      if (authorization !== `Bearer ${token}`) throw new Refused(401, "AuthenticationFailed");
      const group = `/subscriptions/${AZURE.subscription}/resourceGroups/${AZURE.resourceGroup}/providers/Microsoft.Devices`;
      const version = path.startsWith(`${group}/IotHubs/${AZURE.hub}/`) ? "2023-06-30" : "2022-02-05";
      const known = version === "2023-06-30" || path.startsWith(`${group}/provisioningServices/${AZURE.dps}/`);
      if (!known || query["api-version"] !== version) throw new Refused(404, "ResourceNotFound");
      return certificates(method, path, ifMatch, body);
    }
    const [, kind, id] = /^\/(devices|enrollmentGroups|enrollments)\/([^/]+)$/.exec(path) ?? [];
    if (kind === undefined || id === undefined) throw new Refused(404, "no such path");
    const [host, key, version] =
      kind === "devices" ? [HUB_HOST, AZURE.hubKey, "2021-04-12"] : [DPS_HOST, AZURE.dpsKey, "2021-10-01"];
    assertSigned(authorization, [host, "127.0.0.1"], key);
    if (query["api-version"] !== version) throw new Refused(400, "api-version");
    const { devices, enrollments, groups } = recorder;
    const map = kind === "devices" ? devices : kind === "enrollments" ? enrollments : groups;
    return replace(map, decodeURIComponent(id), method, ifMatch, body, kind === "devices" ? 409 : 412);
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const raw = await text(request);
    if (recorder.away) return void request.socket.destroy();
    const target = new URL(request.url ?? "/", "https://recorder");
    const fault = takeFault(recorder.faults, { method: request.method ?? "", path: target.pathname });
    const seen: Omit<Recorded, "answered"> = {
      method: request.method ?? "",
      path: target.pathname,
      query: Object.fromEntries(target.searchParams),
      ifMatch: request.headers["if-match"],
      authorization: request.headers.authorization,
      contentType: request.headers["content-type"],
      body: parsed(raw),
    };
    let status: number;
    let body: unknown;
    try {
      [status, body] = fault !== undefined && fault.after !== true ? [200, undefined] : route(seen, raw);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      [status, body] = [error.status, { error: { code: String(error.status), message: error.message } }];
    }
    recorder.requests.push({ ...seen, answered: fault === undefined ? status : 0 });
    if (fault?.answer === "cut") return void request.socket.destroy();
    if (fault?.answer === "flood") return flood(response);
    if (fault !== undefined) {
      response.writeHead(fault.answer.status, { "content-type": "application/json", ...fault.answer.headers });
      return void response.end(fault.answer.body ?? "");
    }
    response.writeHead(status, { "content-type": "application/json; charset=utf-8" });
    response.end(body === undefined ? "" : JSON.stringify(body));
  }

  const listener = createServer({ key: server.keyPem, cert: server.pem }, (request, response) => {
    answer(request, response).catch((error: unknown) => {
      response.writeHead(500, { "content-type": "text/plain" });
      response.end(String(error));
    });
  });
  await new Promise<void>((done) => listener.listen(0, "127.0.0.1", done));
  const { port } = listener.address() as AddressInfo;
  const url = `https://127.0.0.1:${port}`;
  return Object.assign(recorder, {
    url,
    agent(): Agent {
      const agent = new Agent({ keepAlive: false });
      const here = (options: AgentOptions) => {
        const servername = String((options as { servername?: string; host?: string }).servername ?? "localhost");
        return connect({ host: "127.0.0.1", port, ca: ca.pem, servername });
      };
      return Object.assign(agent, { createConnection: here });
    },
    close(): Promise<void> {
      listener.closeAllConnections();
      return new Promise<void>((done) => listener.close(() => done()));
    },
  });
}

function shown({ name, etag, properties }: CertificateEntry): object {
  return { id: `/certificates/${name}`, name, type: "Microsoft.Devices/certificates", etag, properties };
}

function takeFault(faults: Fault[], request: { method: string; path: string }): Fault | undefined {
  const i = faults.findIndex((fault) => fault.on(request));
  return i < 0 ? undefined : faults.splice(i, 1)[0];
}

function flood(response: ServerResponse): void {
  response.writeHead(200, { "content-type": "application/json" });
  const part = Buffer.alloc(65_536, 0x20);
  const more = (): void => {
    while (!response.destroyed) if (!response.write(part)) return void response.once("drain", more);
  };
  response.on("error", () => undefined);
  more();
}

async function text(request: IncomingMessage): Promise<string> {
  let raw = "";
  for await (const part of request.setEncoding("utf8") as AsyncIterable<string>) raw += part;
  return raw;
}

function parsed(raw: string): unknown {
  try {
    return JSON.parse(raw);
  } catch {
    return undefined;
  }
}

/** Fields of a shared access signature, decoded. */
export function sasFields(authorization: string | undefined): Record<string, string> {
  return Object.fromEntries(new URLSearchParams((authorization ?? "").replace(/^SharedAccessSignature /, "")));
}

function assertSigned(authorization: string | undefined, hosts: readonly string[], key: string): void {
  const { sr = "", sig, se = "0" } = sasFields(authorization);
  const mac = createHmac("sha256", Buffer.from(key, "base64"))
    .update(`${encodeURIComponent(sr)}\n${se}`)
    .digest("base64");
  const inTime = Number(se) > Date.now() / 1000;
  if (!hosts.includes(sr) || sig !== mac || !inTime) throw new Refused(401, "IotHubUnauthorizedAccess");
}

/** As the service does: the certificate's digest in the head, PS256 by its key, for us, in time. */
function proven(assertion: string, certificate: string | undefined): boolean {
  if (certificate === undefined) return false;
  const [head = "", claims = "", signature = ""] = assertion.split(".");
  const read = (part: string) => JSON.parse(Buffer.from(part, "base64url").toString()) as Record<string, unknown>;
  const parsed = new X509Certificate(certificate);
  const digest = createHash("sha256").update(parsed.raw).digest("base64url");
  const { alg, "x5t#S256": named } = read(head);
  const { iss, sub, exp, nbf } = read(claims);
  const now = Date.now() / 1000;
  return (
    alg === "PS256" &&
    named === digest &&
    iss === AZURE.clientId &&
    sub === AZURE.clientId &&
    Number(nbf) <= now + 5 &&
    Number(exp) > now &&
    verify(
      "sha256",
      Buffer.from(`${head}.${claims}`),
      {
        key: createPublicKey(parsed.publicKey.export({ type: "spki", format: "pem" })),
        padding: constants.RSA_PKCS1_PSS_PADDING,
        saltLength: 32,
      },
      Buffer.from(signature, "base64url"),
    )
  );
}
