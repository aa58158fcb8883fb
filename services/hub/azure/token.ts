import { createHash, createPrivateKey, randomUUID, sign, constants } from "node:crypto";
import type { Agent } from "node:https";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import { exchange, type ExchangeAnswer } from "../../exchange.ts";
import { unreachable } from "./rest.ts";
import { readSecret } from "./sas.ts";
import type { AzureHubSettings } from "./settings.ts";

const answerSchema = z.object({
  token_type: z.literal("Bearer"),
  access_token: z.string().regex(/^[A-Za-z0-9._~+/-]{1,16384}=*$/),
  expires_in: z.union([z.number(), z.string().regex(/^\d{1,9}$/)]).transform(Number),
});

/** A token is fetched anew this long before its end. */
const MARGIN_MS = 300_000;
const ASSERTION_SECONDS = 300;

/**
 * Access tokens for Azure Resource Manager by the OAuth 2.0 client credentials grant (RFC 6749, 4.4): with a secret, or
 * with a certificate (RFC 7523). Keeps the last one until shortly before it ends.
 */
export function bearerTokens(
  { login, management, principal }: Pick<AzureHubSettings, "login" | "management" | "principal">,
  agent: Agent,
): () => Promise<string> {
  const url = new URL(`/${principal.tenant}/oauth2/v2.0/token`, login);
  let held: { authorization: string; until: number } | undefined;
  return async () => {
    if (held !== undefined && Date.now() < held.until) return held.authorization;
    const form = new URLSearchParams({
      grant_type: "client_credentials",
      client_id: principal.clientId,
      scope: `${new URL(management).origin}/.default`,
      ...credential(principal, url.href),
    });
    const where = `sign-in at ${login}`;
    let answer: ExchangeAnswer;
    try {
      answer = await exchange({
        url,
        method: "POST",
        agent,
        headers: { accept: "application/json" },
        body: { bytes: form.toString(), type: "application/x-www-form-urlencoded" },
        timeoutMs: 20_000,
        maxAnswerBytes: 64 * 1024,
        signal: AbortSignal.timeout(60_000),
      });
    } catch (cause) {
      throw unreachable(where, (cause as Error).message, cause);
    }
    if (answer.status === 429 || answer.status >= 500) throw unreachable(where, String(answer.status));
    if (answer.status !== 200) {
      throw new CountersignError(
        "unauthorized",
        `${where} answered ${answer.status}: look at the principal's credential`,
      );
    }
    const parsed = answerSchema.safeParse(parse(answer.body));
    if (!parsed.success) throw unreachable(where, "its answer isn't a token");
    const { access_token: token, expires_in: seconds } = parsed.data;
    held = { authorization: `Bearer ${token}`, until: Date.now() + seconds * 1000 - MARGIN_MS };
    return held.authorization;
  };
}

function parse(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString("utf8"));
  } catch {
    return undefined;
  }
}

function credential(principal: AzureHubSettings["principal"], audience: string): Record<string, string> {
  if (principal.secretFile !== undefined) return { client_secret: readSecret(principal.secretFile) };
  return {
    client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    client_assertion: assertion(principal, audience),
  };
}

/** A JWT that the principal's RSA key signs (PS256), its certificate named by digest. */
function assertion(principal: AzureHubSettings["principal"], audience: string): string {
  const [certificate] = pemDecode(readSecret(principal.certificateFile ?? ""), "CERTIFICATE");
  if (certificate === undefined) {
    throw new CountersignError("component-missing", `${principal.certificateFile ?? ""} holds no certificate`);
  }
  const now = Math.floor(Date.now() / 1000);
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const digest = createHash("sha256").update(certificate).digest("base64url");
  const head = part({ alg: "PS256", typ: "JWT", "x5t#S256": digest });
  const claims = part({
    aud: audience,
    iss: principal.clientId,
    sub: principal.clientId,
    jti: randomUUID(),
    nbf: now,
    exp: now + ASSERTION_SECONDS,
  });
  const key = createPrivateKey(readSecret(principal.keyFile ?? ""));
  if (key.asymmetricKeyType !== "rsa") {
    throw new CountersignError("key-unsupported", "Azure takes a service principal's certificate with an RSA key only");
  }
  const signature = sign("sha256", Buffer.from(`${head}.${claims}`), {
    key,
    padding: constants.RSA_PKCS1_PSS_PADDING,
    saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
  });
  return `${head}.${claims}.${signature.toString("base64url")}`;
}
