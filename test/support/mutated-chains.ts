import fc from "fast-check";
import { algorithmIdentifier } from "../../lib/pki/algorithms.ts";
import * as der from "../../lib/pki/der-write.ts";
import { ipOctets, type SubjectAltName } from "../../lib/pki/general-name.ts";
import { buildName } from "../../lib/pki/name.ts";
import { OID } from "../../lib/pki/oids.ts";
import { encodeTime } from "../../lib/pki/time.ts";
import { throwawayKey, type ThrowawayKey } from "./issuing.ts";
import {
  rawCertificate,
  rawDefaults,
  rawExtension as ext,
  type RawCertificate,
  type RawExtension,
} from "./raw-certificate.ts";

/**
 * Chains, most of them wrong in one or two places: the material on which validators are compared. All randomness is
 * fast-check's, so a run can be repeated from its seed.
 */

export const AT = new Date(Date.UTC(2026, 10, 22, 12));
const KEYS: ThrowawayKey[] = Array.from({ length: 10 }, () => throwawayKey());
const OTHERS: ThrowawayKey[] = [throwawayKey("ec-p384"), throwawayKey("ed25519"), throwawayKey("rsa-2048")];

export interface MutatedChain {
  /** What was done to it */
  readonly story: string;
  /** DER, leaf first, in the order handed over, extras included, without the root */
  readonly chain: Uint8Array[];
  readonly root: Uint8Array;
}

interface Draft {
  /** Root first */
  certificates: RawCertificate[];
  keys: ThrowawayKey[];
  extras: RawCertificate[];
  dropped: Set<number>;
  swapped: boolean;
}

interface Mutation {
  readonly name: string;
  apply(draft: Draft, level: number, dice: number): void;
}

const without = (extensions: RawExtension[], oid: string): RawExtension[] =>
  extensions.filter((one) => one.oid !== oid);
const put = (raw: RawCertificate, extension: RawExtension): void => {
  raw.extensions = [...without(raw.extensions, extension.oid), extension];
};
const pick = <T>(choices: readonly T[], dice: number): T => choices[dice % choices.length]!;
const at = (draft: Draft, level: number): RawCertificate => draft.certificates[level % draft.certificates.length]!;
const leafOf = (draft: Draft): RawCertificate => draft.certificates.at(-1)!;
const isCa = (draft: Draft, level: number): boolean =>
  level % draft.certificates.length < draft.certificates.length - 1;
const day = (days: number): Uint8Array => encodeTime(new Date(AT.getTime() + days * 86_400_000));

const gn = {
  dns: (value: string) => der.implicit(2, new TextEncoder().encode(value)),
  email: (value: string) => der.implicit(1, new TextEncoder().encode(value)),
  uri: (value: string) => der.implicit(6, new TextEncoder().encode(value)),
  ip: (base: string, mask: string) => der.implicit(7, Uint8Array.of(...ipOctets(base), ...ipOctets(mask))),
  directory: (organization: string) => der.explicit(4, buildName({ organization })),
};
export const BASES = [
  gn.dns("example.com"),
  gn.dns(".example.com"),
  gn.dns("device.example.com"),
  gn.dns(""),
  gn.dns("com"),
  gn.dns("EXAMPLE.com"),
  gn.email("example.com"),
  gn.email(".example.com"),
  gn.email("ops@example.com"),
  gn.email("OPS@example.com"),
  gn.uri("example.com"),
  gn.uri(".example.com"),
  gn.uri("a.example.com"),
  gn.ip("10.0.0.0", "255.0.0.0"),
  gn.ip("0.0.0.0", "0.0.0.0"),
  gn.ip("2001:db8::", "ffff:ffff::"),
  gn.ip("10.1.2.3", "255.255.255.255"),
  gn.directory("Factory"),
  gn.directory("factory  "),
  gn.directory("Other"),
  der.explicit(4, buildName({})),
  der.implicit(8, Uint8Array.of(0x2a, 3)), // registeredID
  gn.dns("exa mple"),
  der.implicit(7, Uint8Array.of(10, 0, 0, 0)),
];
export const NAMES: SubjectAltName[][] = [
  [{ kind: "dns", value: "device.example.com" }],
  [{ kind: "dns", value: "example.com" }],
  [{ kind: "dns", value: "evil.com" }],
  [{ kind: "dns", value: "*.example.com" }],
  [{ kind: "dns", value: "DEVICE.Example.COM" }],
  [{ kind: "dns", value: "notexample.com" }],
  [{ kind: "dns", value: "device.example.com." }],
  [
    { kind: "dns", value: "a.device.example.com" },
    { kind: "dns", value: "b.org" },
  ],
  [{ kind: "email", value: "ops@example.com" }],
  [{ kind: "email", value: "x@a.example.com" }],
  [{ kind: "email", value: "x@evil.com" }],
  [{ kind: "email", value: '"a@b"@example.com' }],
  [{ kind: "email", value: "example.com" }],
  [{ kind: "uri", value: "https://a.example.com/x" }],
  [{ kind: "uri", value: "https://example.com:8443/" }],
  [{ kind: "uri", value: "https://10.0.0.1/" }],
  [{ kind: "uri", value: "urn:dev:1" }],
  [{ kind: "uri", value: "https://u@evil.com/" }],
  [{ kind: "uri", value: "http://evil.com?x.example.com/" }],
  [{ kind: "ip", value: ipOctets("10.1.2.3") }],
  [{ kind: "ip", value: ipOctets("11.1.2.3") }],
  [{ kind: "ip", value: ipOctets("2001:db8::5") }],
  [{ kind: "directory", value: buildName({ organization: "Factory", commonName: "x" }) }],
  [{ kind: "directory", value: buildName({ organization: "Else" }) }],
];

const MUTATIONS: Mutation[] = [
  { name: "pathLen", apply: (d, l, x) => put(at(d, l), ext.basicConstraints(true, x % 3)) },
  { name: "pathLen on root", apply: (d, _l, x) => put(d.certificates[0]!, ext.basicConstraints(true, x % 4)) },
  { name: "cA false", apply: (d, l) => put(at(d, l), ext.basicConstraints(false)) },
  { name: "cA true", apply: (d, l) => put(at(d, l), ext.basicConstraints(true)) },
  { name: "pathLen without cA", apply: (d, l) => put(at(d, l), ext.basicConstraints(false, 1)) },
  {
    name: "no basicConstraints",
    apply: (d, l) => void (at(d, l).extensions = without(at(d, l).extensions, OID.basicConstraints)),
  },
  {
    name: "basicConstraints not critical",
    apply: (d, l) => put(at(d, l), ext.basicConstraints(isCa(d, l), undefined, false)),
  },
  { name: "no keyUsage", apply: (d, l) => void (at(d, l).extensions = without(at(d, l).extensions, OID.keyUsage)) },
  {
    name: "other keyUsage",
    apply: (d, l, x) =>
      put(
        at(d, l),
        ext.keyUsage(
          pick(
            [
              ["digitalSignature"],
              ["cRLSign"],
              ["keyCertSign"],
              ["keyAgreement"],
              ["keyEncipherment"],
              ["nonRepudiation"],
              [],
            ] as const,
            x,
          ),
          x % 2 === 0,
        ),
      ),
  },
  {
    name: "extKeyUsage",
    apply: (d, l, x) =>
      put(
        at(d, l),
        ext.extKeyUsage(
          pick(
            [
              [OID.clientAuth],
              [OID.serverAuth],
              [OID.clientAuth, OID.serverAuth],
              [OID.anyExtendedKeyUsage],
              ["1.3.6.1.5.5.7.3.3"],
            ],
            x,
          ),
          x % 3 === 0,
        ),
      ),
  },
  { name: "expired", apply: (d, l) => void (at(d, l).notAfter = day(-1)) },
  { name: "not yet valid", apply: (d, l) => void (at(d, l).notBefore = day(1)) },
  {
    name: "to the second",
    apply: (d, l, x) =>
      void (x % 2 === 0 ? (at(d, l).notAfter = encodeTime(AT)) : (at(d, l).notBefore = encodeTime(AT))),
  },
  { name: "wrong signer", apply: (d, l) => void (at(d, l).signer = KEYS[9]!) },
  { name: "spoiled signature", apply: (d, l) => void (at(d, l).spoilSignature = true) },
  { name: "unknown critical extension", apply: (d, l) => put(at(d, l), ext.any("1.2.3.4.5", true)) },
  { name: "unknown extension", apply: (d, l) => put(at(d, l), ext.any("1.2.3.4.5", false)) },
  {
    name: "duplicate extension",
    apply: (d, l, x) => void at(d, l).extensions.push(...at(d, l).extensions.slice(x % 4, (x % 4) + 1)),
  },
  {
    name: "duplicate unknown extension",
    apply: (d, l) => void at(d, l).extensions.push(ext.any("1.2.3.4.5", false), ext.any("1.2.3.4.5", false)),
  },
  { name: "other issuer name", apply: (d, l) => void (at(d, l).issuer = buildName({ commonName: "Nobody" })) },
  {
    name: "issuer name in other case",
    apply: (d, l) =>
      void (at(d, l).issuer = Uint8Array.from(at(d, l).issuer, (o) => (o >= 0x61 && o <= 0x7a ? o - 32 : o))),
  },
  { name: "empty subject", apply: (d, l) => void (at(d, l).subject = buildName({})) },
  { name: "empty issuer", apply: (d, l) => void (at(d, l).issuer = buildName({})) },
  {
    name: "empty subject, names critical",
    apply: (d) => ((leafOf(d).subject = buildName({})), put(leafOf(d), ext.san(NAMES[0]!, true))),
  },
  {
    name: "empty subject, names not critical",
    apply: (d) => ((leafOf(d).subject = buildName({})), put(leafOf(d), ext.san(NAMES[0]!))),
  },
  {
    name: "no AKI",
    apply: (d, l) => void (at(d, l).extensions = without(at(d, l).extensions, OID.authorityKeyIdentifier)),
  },
  {
    name: "no SKI",
    apply: (d, l) => void (at(d, l).extensions = without(at(d, l).extensions, OID.subjectKeyIdentifier)),
  },
  { name: "other AKI", apply: (d, l) => put(at(d, l), ext.aki(KEYS[9]!.spki)) },
  { name: "other SKI", apply: (d, l) => put(at(d, l), ext.ski(KEYS[9]!.spki)) },
  { name: "AKI critical", apply: (d, l) => put(at(d, l), { ...ext.aki(at(d, l).signer.spki), critical: true }) },
  { name: "SKI critical", apply: (d, l) => put(at(d, l), ext.ski(at(d, l).spki, true)) },
  {
    name: "AKI by serial",
    apply: (d, l, x) => {
      const names = der.explicit(
        1,
        der.explicit(4, x % 2 === 0 ? d.certificates[0]!.issuer : buildName({ commonName: "Nobody" })),
      );
      const value = der.sequence(names, der.implicit(2, x % 3 === 0 ? Uint8Array.of(7) : d.certificates[0]!.serial));
      put(at(d, l), ext.any(OID.authorityKeyIdentifier, false, value));
    },
  },
  {
    name: "algorithm mismatch",
    apply: (d, l) => void (at(d, l).outerAlgorithm = algorithmIdentifier("ecdsa-p384-sha384")),
  },
  { name: "version 1", apply: (d, l) => ((at(d, l).version = 1), (at(d, l).extensions = [])) },
  { name: "version 1 with extensions", apply: (d, l) => void (at(d, l).version = 1) },
  {
    name: "serial",
    apply: (d, l, x) =>
      void (at(d, l).serial = pick(
        [Uint8Array.of(0), Uint8Array.of(0x80), Uint8Array.of(5), new Uint8Array(21).fill(1)],
        x,
      )),
  },
  { name: "other key of the subject", apply: (d, l) => void (at(d, l).spki = KEYS[8]!.spki) },
  { name: "missing certificate", apply: (d, l) => void d.dropped.add(1 + (l % (d.certificates.length - 1))) },
  { name: "shuffled", apply: (d) => void (d.swapped = true) },
  {
    name: "an unrelated certificate",
    apply: (d, l) => void d.extras.push({ ...at(d, l), subject: buildName({ commonName: "Extra" }) }),
  },
  { name: "a twin of a CA", apply: (d, l) => void d.extras.push({ ...at(d, l), notAfter: day(-2) }) },
  {
    name: "a forged twin of a CA",
    apply: (d, l) => void d.extras.push({ ...at(d, l), signer: KEYS[9]!, spki: KEYS[9]!.spki }),
  },
  { name: "the root in the chain", apply: (d) => void d.extras.push(d.certificates[0]!) },
  {
    name: "name constraints permitted",
    apply: (d, l, x) => put(at(d, l), ext.nameConstraints([pick(BASES, x)], [], x % 5 !== 0)),
  },
  {
    name: "name constraints excluded",
    apply: (d, l, x) => put(at(d, l), ext.nameConstraints([], [pick(BASES, x)], x % 5 !== 0)),
  },
  {
    name: "permitted, with names",
    apply: (d, l, x) => (
      put(at(d, l), ext.nameConstraints([pick(BASES, x)], [])),
      put(leafOf(d), ext.san(pick(NAMES, x * 7 + l)))
    ),
  },
  {
    name: "excluded, with names",
    apply: (d, l, x) => (
      put(at(d, l), ext.nameConstraints([], [pick(BASES, x)])),
      put(leafOf(d), ext.san(pick(NAMES, x * 5 + l)))
    ),
  },
  {
    name: "permitted, with a DNS-like CN",
    apply: (d, l, x) => (
      put(at(d, l), ext.nameConstraints([gn.dns("example.com")], [])),
      void (leafOf(d).subject = buildName({
        commonName: pick(["a.example.com", "a.evil.com", "no-dns", "a b.evil.com"], x),
      }))
    ),
  },
  { name: "alternative names", apply: (d, _l, x) => put(leafOf(d), ext.san(pick(NAMES, x), x % 2 === 0)) },
  {
    name: "policies",
    apply: (d, l, x) =>
      put(at(d, l), ext.any(OID.certificatePolicies, x % 2 === 0, der.sequence(der.sequence(der.oid("1.2.3"))))),
  },
  {
    name: "policy constraints",
    apply: (d, l) =>
      put(at(d, l), ext.any(OID.policyConstraints, true, der.sequence(der.implicit(0, Uint8Array.of(0))))),
  },
  { name: "inhibitAnyPolicy", apply: (d, l) => put(at(d, l), ext.any(OID.inhibitAnyPolicy, true, der.integer(0))) },
  {
    name: "self-issued CA",
    apply: (d, l) => {
      const one = at(d, l);
      if (isCa(d, l) && l % d.certificates.length > 0) one.subject = one.issuer;
    },
  },
  { name: "nothing", apply: () => undefined },
];

function draft(length: number, algorithm: number): Draft {
  const keys = KEYS.slice(0, length);
  if (algorithm < OTHERS.length) keys[length - 2] = OTHERS[algorithm]!;
  const subjects = keys.map((_, i) =>
    i === 0
      ? buildName({ organization: "Maker", commonName: "Root" })
      : buildName({ organization: "Factory", commonName: i === length - 1 ? "dev-1" : `CA ${i}` }),
  );
  const certificates = keys.map((key, i) => {
    const above = Math.max(0, i - 1);
    const leaf = i === length - 1;
    const extensions = leaf
      ? [ext.basicConstraints(false), ext.keyUsage(["digitalSignature"]), ext.extKeyUsage([OID.clientAuth])]
      : [ext.basicConstraints(true), ext.keyUsage(["keyCertSign", "cRLSign"])];
    return rawDefaults({
      subject: subjects[i]!,
      key,
      issuer: { subject: subjects[above]!, key: keys[above]! },
      extensions,
      serial: i + 1,
      at: AT,
    });
  });
  return { certificates, keys, extras: [], dropped: new Set(), swapped: false };
}

/** A chain of three whose CA has one name constraint and whose leaf has these names. */
export function constrainedChain(
  base: Uint8Array,
  names: readonly SubjectAltName[],
  side: "permitted" | "excluded",
): MutatedChain {
  const made = draft(3, OTHERS.length);
  put(made.certificates[1]!, side === "permitted" ? ext.nameConstraints([base], []) : ext.nameConstraints([], [base]));
  put(leafOf(made), ext.san(names));
  const [root, ca, leaf] = made.certificates.map(rawCertificate);
  return {
    story: `${side} ${Buffer.from(base).toString("latin1")}: ${JSON.stringify(names)}`,
    chain: [leaf!, ca!],
    root: root!,
  };
}

/** A mutation of a subject or key is a mistake of that certificate alone; those below still name what was meant. */
export const mutatedChain: fc.Arbitrary<MutatedChain> = fc
  .record({
    length: fc.integer({ min: 2, max: 6 }),
    algorithm: fc.integer({ min: 0, max: 8 }),
    steps: fc.array(
      fc.record({
        mutation: fc.nat({ max: MUTATIONS.length - 1 }),
        level: fc.nat({ max: 59 }),
        dice: fc.nat({ max: 999 }),
      }),
      { minLength: 1, maxLength: 2 },
    ),
  })
  .map(({ length, algorithm, steps }) => {
    const made = draft(length, algorithm);
    const story: string[] = [];
    for (const { mutation, level, dice } of steps) {
      MUTATIONS[mutation]!.apply(made, level, dice);
      story.push(`${MUTATIONS[mutation]!.name} (level ${level % length} of ${length}, dice ${dice})`);
    }
    const ders = made.certificates.map(rawCertificate);
    const extras = made.extras.map(rawCertificate);
    const upper = ders
      .slice(1, -1)
      .filter((_, i) => !made.dropped.has(i + 1))
      .reverse();
    const rest = made.swapped ? [...extras, ...upper.toReversed()] : [...upper, ...extras];
    return { story: story.join(" + "), chain: [ders.at(-1)!, ...rest], root: ders[0]! };
  });
