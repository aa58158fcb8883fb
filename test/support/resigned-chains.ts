import fc from "fast-check";
import { algorithmIdentifier } from "../../lib/pki/algorithms.ts";
import * as der from "../../lib/pki/der-write.ts";
import { OID } from "../../lib/pki/oids.ts";
import { inside, readWhole } from "../../lib/pki/der.ts";
import { broken, someBreaks } from "./broken-der.ts";
import type { MutatedChain } from "./mutated-chains.ts";
import { rawCertificate, rawExtension as ext } from "./raw-certificate.ts";
import { ca, gn, KEYS, leaf, root, subject, Y } from "./spoiled-path.ts";

/**
 * Chains of which one certificate's signed part was broken at one place of its DER and signed again by the right key:
 * what only a parser or a rule can refuse, since every signature holds.
 */

/** Rich in extensions, so that there is something to break; `plain`: with those only that every judge processes. */
function drafts(plain: boolean) {
  const made = [root(), ca(), leaf()];
  const [, above, below] = made;
  const points = (uri: string) =>
    ext.any(
      OID.cRLDistributionPoints,
      false,
      der.sequence(der.sequence(der.explicit(0, der.encodeElement(0xa0, gn.uri(uri))))),
    );
  const access = ext.any(
    OID.authorityInfoAccess,
    false,
    der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.48.1"), gn.uri("http://ocsp.example.com/"))),
  );
  const policies = ext.any(OID.certificatePolicies, false, der.sequence(der.sequence(der.oid("1.2.3.4"))));
  const permitted = [gn.dns("example.com"), gn.ip("10.0.0.0", "255.0.0.0"), ...(plain ? [] : [gn.directory(Y)])];
  above!.extensions.push(
    ext.nameConstraints(permitted, [gn.dns("evil.example.com")]),
    points("http://crl.example.com/root.crl"),
    access,
    policies,
    ...(plain
      ? []
      : [
          ext.any(OID.policyConstraints, true, der.sequence(der.implicit(1, Uint8Array.of(3)))),
          ext.any(OID.inhibitAnyPolicy, true, der.integer(2)),
        ]),
  );
  below!.subject = subject;
  below!.extensions.push(
    ext.san([
      { kind: "dns", value: "device.example.com" },
      { kind: "ip", value: Uint8Array.of(10, 1, 2, 3) },
      { kind: "email", value: "ops@example.com" },
      { kind: "uri", value: "https://example.com/x" },
      { kind: "directory", value: subject },
    ]),
    ext.extKeyUsage([OID.clientAuth]),
    points("http://crl.example.com/ca.crl"),
    access,
    policies,
  );
  return made;
}

const SIGNERS = [KEYS.root, KEYS.root, KEYS.ca];
const WHOSE = ["root", "CA", "leaf"];
const TBS = [true, false].map((plain) =>
  drafts(plain).map((draft) => inside(readWhole(rawCertificate(draft))).read(0x30).raw),
);

function sign(tbs: Uint8Array, level: number): Uint8Array {
  const key = SIGNERS[level]!;
  return der.sequence(tbs, algorithmIdentifier(key.algorithm), der.bitString(key.sign(tbs)));
}
const WHOLE = TBS.map((three) => three.map(sign));

/** Stories begin with "plain" or "rich". */
export const resignedChain: fc.Arbitrary<MutatedChain> = fc
  .record({ kind: fc.constantFrom(0, 0, 0, 1), level: fc.constantFrom(0, 1, 1, 2, 2, 2), breaks: someBreaks })
  .map(({ kind, level, breaks }) => {
    const { bytes, story } = broken(TBS[kind]![level]!, breaks);
    const certificates = WHOLE[kind]!.with(level, sign(bytes, level));
    return {
      story: `${kind === 0 ? "plain" : "rich"} ${WHOSE[level]}: ${story}`,
      chain: [certificates[2]!, certificates[1]!],
      root: certificates[0]!,
    };
  });
