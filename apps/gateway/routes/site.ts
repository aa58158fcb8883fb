import { equalBytes } from "../../../lib/domain/bytes.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { logVkey, witnessVkey } from "../../../services/parties/identity.ts";
import { crlName, crlUrl } from "../../../services/parties/ca.ts";
import { currentCrl, findCaCertificate, listOnlineCas } from "../../../store/authority.ts";
import { newestCosigned } from "../../../store/cosignatures.ts";
import { findCurrentGrant, findGrantOf, rootPin } from "../../../store/grants.ts";
import { readHead } from "../../../store/ledger.ts";
import { listPeers } from "../../../store/parties.ts";
import { requireClient } from "../../http/client.ts";
import { registerReadiness } from "../../http/readiness.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

/** What this site is and whether it is well: `/healthz`, `/readyz`, `/`, `/api/v1/site`. */
export function registerSite(app: HttpsServer, deps: GatewayDeps): void {
  const { db, identity, name, role } = deps;

  registerCas(app, deps);
  registerReadiness(app, deps.components);

  app.get("/", async (_request, reply) => {
    const [head, peers] = await Promise.all([readHead(db), listPeers(db)]);
    reply.header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'");
    return reply.type("text/html; charset=utf-8").send(
      page(
        deps,
        head?.size ?? 0,
        peers.map((peer) => peer.party),
      ),
    );
  });

  app.get("/api/v1/site", { onRequest: requireClient() }, async () => {
    const [head, cosigned, witnesses, grant, ca, crl, root, peers] = await Promise.all([
      readHead(db),
      newestCosigned(db),
      deps.witnesses(),
      findCurrentGrant(db),
      findCaCertificate(db),
      findCaCertificate(db).then((own) => own && currentCrl(db, crlName(own.keyId))),
      rootPin(db),
      listPeers(db),
    ]);
    return {
      party: identity.party,
      name,
      role,
      organization: identity.organization,
      origin: identity.origin,
      vkey: logVkey(identity),
      witnessVkey: witnessVkey(identity),
      url: identity.gatewayUrl,
      publicUrl: identity.publicUrl,
      parent: peers.find((peer) => peer.direction === "parent")?.party ?? null,
      children: peers.filter((peer) => peer.direction === "child").map((peer) => peer.party),
      ledger: { size: head?.size ?? 0, cosigned: cosigned ?? 0, witnesses },
      rootSha256: root?.sha256 ?? null,
      root: root ? pemEncode("CERTIFICATE", root.certificate) : null,
      ca: ca ? pemEncode("CERTIFICATE", ca.certificate) : null,
      crl: crl ? pemEncode("X509 CRL", crl.der) : null,
      grant: grant
        ? {
            id: grant.fields.id,
            ...grant.ref,
            quota: grant.quota,
            used: grant.used,
            idPrefixes: grant.fields.idPrefixes,
            profiles: grant.fields.profiles.map((profile) => profile.name),
            mayBuild: grant.fields.mayBuild,
            notBefore: grant.fields.notBefore,
            notAfter: grant.fields.notAfter,
          }
        : null,
    };
  });
}

/** This site's CA, what is above it, and where its CRL is: for hubs that follow it. */
function registerCas(app: HttpsServer, { db, identity }: GatewayDeps): void {
  app.get("/api/v1/ca-certificates", { onRequest: requireClient("operator", "monitor") }, async () => {
    const [ca, online] = await Promise.all([findCaCertificate(db), listOnlineCas(db)]);
    if (ca === undefined) return { cas: [] };
    // The present key first; those before it, for as long as devices of theirs may come.
    const all = ca.role === "root" ? [ca] : online.reverse();
    const cas = await Promise.all(
      all.map(async ({ keyId, certificate }) => {
        const grant = await findGrantOf(db, (one) => equalBytes(one, certificate));
        const chain = [certificate, ...(grant?.upstream ?? [])].map((der) => pemEncode("CERTIFICATE", der)).join("");
        return { chain, crlUrl: crlUrl(identity.publicUrl, keyId) };
      }),
    );
    return { cas };
  });
}

const escape = (text: string): string => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

function page({ identity, name, role }: GatewayDeps, size: number, peers: readonly string[]): string {
  const row = (label: string, value: string): string => `<tr><th>${label}</th><td>${value}</td></tr>`;
  const link = (path: string): string => `<a href="${path}">${path}</a>`;
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(name)}</title>
<style>body{font:16px/1.5 system-ui;margin:3em auto;max-width:46em;padding:0 1em}th{text-align:left;padding-right:2em}
td{overflow-wrap:anywhere}</style>
<h1>${escape(name)}</h1><p>The gateway of a Countersign site.</p><table>
${row("Party", escape(identity.party))}${row("Role", role)}${row("Ledger", `${escape(identity.origin)}, ${size} acts`)}
${row("Log key", `<code>${escape(logVkey(identity))}</code>`)}
${row("Exchanges with", peers.length === 0 ? "nobody yet" : peers.map(escape).join(", "))}
${row("Health", `${link("/healthz")} ${link("/readyz")}`)}${row("Checkpoint", link("/ledger/checkpoint"))}</table></html>
`;
}
