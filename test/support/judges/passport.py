"""A second verifier of passports, written from docs/passport.md and the schemas beside it; shares no code with ours.

Standard input: lines of JSON {"passport": base64 of the file, "root": base64 of the DER, "policy": object}.
Standard output: for each, in order, {"ok": true, "device": id, "acts": n} or {"ok": false, "why": text, "act": n or null}.
"""
import base64
import datetime
import functools
import hashlib
import json
import pathlib
import re
import sys
import warnings

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import AttributeOID, NameOID

warnings.simplefilter("ignore")
DOCS = pathlib.Path(__file__).parents[3] / "docs"
HOUR = datetime.timedelta(hours=1)
DEVICE_PROFILES = {"idevid", "ldevid"}


class Refused(Exception):
    pass


def need(holds, why):
    if not holds:
        raise Refused(why)


# Bytes ----------------------------------------------------------------------------------------------------------------


def sha(data):
    return hashlib.sha256(data).digest()


def sha_hex(data):
    return sha(data).hex()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def unbase64(text):
    raw = base64.b64decode(text, validate=True)
    need(base64.b64encode(raw).decode() == text, "base64 in another spelling")
    return raw


def leaf(data):
    return sha(b"\0" + data)


def path_root(hash_, index, size, path):
    """RFC 9162 section 2.1.3.2."""
    need(0 <= index < size, "the index lies beyond the tree")
    first, last = index, size - 1
    for sibling in path:
        need(last > 0, "the path is too long")
        if first % 2 or first == last:
            hash_ = sha(b"\1" + sibling + hash_)
            while first % 2 == 0 and first:
                first, last = first >> 1, last >> 1
        else:
            hash_ = sha(b"\1" + hash_ + sibling)
        first, last = first >> 1, last >> 1
    need(last == 0, "the path is too short")
    return hash_


def way_up(index, size):
    """The nodes from a leaf to the root with their siblings, as ranges of leaves (RFC 9162 section 2.1.1)."""
    start, end, pairs = 0, size, []
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        left, right = (start, middle), (middle, end)
        pairs.append((left, right) if index < middle else (right, left))
        start, end = pairs[-1][0]
    return pairs[::-1]


def in_list(item, index, count, path, root, why):
    found = path_root(leaf(item), index, count, [bytes.fromhex(one) for one in path])
    need(found.hex() == root, why)


# Forms ----------------------------------------------------------------------------------------------------------------

TYPES = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
}


def fits(value, schema, top, where="(top)"):
    """As much of JSON Schema 2020-12 as our schemas use."""
    if "$ref" in schema:
        fits(value, top["$defs"][schema["$ref"].rsplit("/", 1)[1]], top, where)
    for one in schema.get("allOf", []):
        fits(value, one, top, where)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            need(any(matches(value, one, top) for one in schema[choice]), f"{where}: none of its forms")
    if "type" in schema:
        need(TYPES[schema["type"]](value), f"{where}: not of type {schema['type']}")
    if "const" in schema:
        need(value == schema["const"], f"{where}: not {schema['const']}")
    if "enum" in schema:
        need(value in schema["enum"], f"{where}: not one of {schema['enum']}")
    if isinstance(value, str):
        size = len(value.encode("utf-16-le")) // 2
        need(schema.get("minLength", 0) <= size <= schema.get("maxLength", 1 << 30), f"{where}: its length")
        if "pattern" in schema:
            need(re.search(schema["pattern"].replace("$", r"\Z"), value), f"{where}: its form")
    elif isinstance(value, list):
        need(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30), f"{where}: how many")
        prefix = schema.get("prefixItems", [])
        need(not prefix or len(value) == len(prefix), f"{where}: how many")
        for i, item in enumerate(value):
            fits(item, prefix[i] if i < len(prefix) else schema.get("items") or {}, top, f"{where}.{i}")
    elif isinstance(value, dict):
        known = schema.get("properties", {})
        for name in schema.get("required", []):
            need(name in value, f"{where}: {name} is missing")
        for name, item in value.items():
            inner = known.get(name, schema.get("additionalProperties", {}))
            need(inner is not False, f"{where}: {name} isn't known")
            fits(item, {} if inner is True else inner, top, f"{where}.{name}")
    elif isinstance(value, int) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        need(low <= value <= high, f"{where}: beyond its bounds")


def matches(value, schema, top):
    try:
        fits(value, schema, top)
        return True
    except Refused:
        return False


@functools.cache
def schema_of(name):
    path = DOCS / f"{name}.json"
    need(path.is_file(), f"there is no schema {name}")
    return json.loads(path.read_text())


def by_schema(value, name):
    schema = schema_of(name)
    fits(value, schema, schema)


def no_doubles(pairs):
    need(len({name for name, _ in pairs}) == len(pairs), "a member twice")
    return dict(pairs)


def no_floats(text):
    raise Refused(f"the number {text}")


def parse_json(data):
    text = data.decode("utf-8")
    return json.loads(text, object_pairs_hook=no_doubles, parse_float=no_floats, parse_constant=no_floats)


def instant(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


# Keys -----------------------------------------------------------------------------------------------------------------


def verifies(spki, message, signature):
    try:
        key = serialization.load_der_public_key(spki)
        if isinstance(key, ec.EllipticCurvePublicKey):
            digest = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384()}[key.curve.name]
            key.verify(signature, message, ec.ECDSA(digest))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            return False
        return True
    except (InvalidSignature, ValueError, KeyError):
        return False


def ed25519_verifies(raw, message, signature):
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def spki_of(certificate):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(serialization.Encoding.DER, form)


def read_certificate(der):
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise Refused(f"a certificate can't be read: {error}") from error


def is_ca(certificate):
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def valid_path(chain, root, at):
    """RFC 5280, by pyca cryptography."""
    moment = instant(at).replace(tzinfo=None)
    builder = verification.PolicyBuilder().store(verification.Store([root])).time(moment).max_chain_depth(10)
    builder = builder.extension_policies(
        ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
        ee_policy=verification.ExtensionPolicy.permit_all(),
    )
    try:
        builder.build_client_verifier().verify(chain[0], chain[1:])
    except (verification.VerificationError, ValueError) as error:
        raise Refused(f"the chain doesn't verify: {error}") from error


# Notes and policies ---------------------------------------------------------------------------------------------------


class Key:
    def __init__(self, vkey):
        match = re.fullmatch(r"([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)", vkey)
        need(match, "a vkey can't be read")
        self.name, self.id, blob = match[1], match[2], unbase64(match[3])
        self.type, self.raw = blob[0], blob[1:]
        need(self.type in (1, 4) and len(self.raw) == 32, "a vkey of another kind")
        need(sha(self.name.encode() + b"\n" + blob)[:4].hex() == self.id, "a vkey's key id")


class Policy:
    def __init__(self, text):
        self.logs, self.members, self.quorum = [], {}, None
        for line in text.splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "log":
                self.logs.append(Key(words[1]))
            elif words[0] == "witness":
                self.members[words[1]] = Key(words[2])
            elif words[0] == "group":
                k = {"all": len(words) - 3, "any": 1}.get(words[2]) or int(words[2])
                self.members[words[1]] = (k, words[3:])
            elif words[0] == "quorum":
                self.quorum = words[1]
            else:
                raise Refused(f"the policy's line {line!r}")
        need(self.logs and self.quorum is not None, "the policy has no log or no quorum")
        self.log = self.logs[0]
        self.witnesses = [key for key in self.members.values() if isinstance(key, Key)]

    def met(self, name, signed):
        if name == "none":
            return True
        member = self.members[name]
        if isinstance(member, Key):
            return member in signed
        return sum(self.met(one, signed) for one in member[1]) >= member[0]


class Checkpoint:
    def __init__(self, note, keys):
        need(not re.search(r"[\x00-\x09\x0b-\x1f]", note), "the note holds a control character")
        text, found, lines = note.rpartition("\n\n")
        need(found and lines.endswith("\n"), "not a signed note")
        text += "\n"
        match = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/=]+)\n", text)
        need(match, "not a checkpoint")
        self.origin, self.size, self.root = match[1], int(match[2]), unbase64(match[3])
        need(len(self.root) == 32, "the root is no hash")
        self.signed, self.times, self.nodes = [], [], {}
        for line in lines[:-1].split("\n"):
            match = re.fullmatch("\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)", line)
            need(match, "a malformed signature line")
            blob = unbase64(match[2])
            for key in keys:
                if key.name != match[1] or key.id != blob[:4].hex():
                    continue
                signature, message = blob[4:], text.encode()
                if key.type == 4:
                    need(len(signature) == 72, "a malformed cosignature")
                    time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
                    need(time <= 253402300799, "a cosignature's time is malformed")
                    message = f"cosignature/v1\ntime {time}\n".encode() + message
                    self.times.append(time)
                need(ed25519_verifies(key.raw, message, signature), f"the signature of {key.name} doesn't verify")
                self.signed.append(key)


def open_checkpoint(note, origin, policy):
    checkpoint = Checkpoint(note, [*policy.logs, *policy.witnesses])
    need(checkpoint.origin == origin, f"a checkpoint of {checkpoint.origin}")
    need(policy.log in checkpoint.signed, f"{origin} hasn't signed its checkpoint")
    need(policy.met(policy.quorum, checkpoint.signed), f"no quorum has cosigned the checkpoint of {origin}")
    return checkpoint


# Packed values --------------------------------------------------------------------------------------------------------


class Unpacker:
    def __init__(self, passport, root):
        raw = unbase64(passport["hashes"])
        need(len(raw) % 32 == 0, "hashes of another length")
        self.hashes = [raw[i : i + 32] for i in range(0, len(raw), 32)]
        self.values, self.root, self.acts = [], base64.b64encode(root).decode(), []
        self.unused = {f"#{i}" for i in range(len(self.hashes))} | {f"${i}" for i in range(len(passport["values"]))}
        for one in passport["values"]:
            self.values.append(one if isinstance(one, str) else self.value(one))

    def number(self, text):
        need(re.fullmatch("0|[1-9][0-9]{0,3}", text), "a reference can't be read")
        return int(text)

    def run(self, first, count):
        need(count >= 1 and first + count <= len(self.hashes), "a reference to no hash")
        self.unused -= {f"#{i}" for i in range(first, first + count)}
        return self.hashes[first : first + count]

    def path(self, runs):
        need(len(runs) % 2 == 0, "a run without a length")
        return [one for i in range(0, len(runs), 2) for one in self.run(runs[i], runs[i + 1])]

    def value(self, packed, depth=0):
        need(depth <= 16, "nested too deep")
        if isinstance(packed, dict):
            return {name: self.value(item, depth + 1) for name, item in packed.items()}
        if isinstance(packed, list):
            items = []
            for item in packed:
                if isinstance(item, str) and item.startswith("#") and "-" in item:
                    first, last = map(self.number, item[1:].split("-", 1))
                    items += [one.hex() for one in self.run(first, last - first + 1)]
                else:
                    items.append(self.value(item, depth + 1))
            return items
        if not isinstance(packed, str) or packed[:1] not in ("#", "$", "@"):
            return packed
        if packed == "$root":
            return self.root
        n = self.number(packed[1:])
        if packed[0] == "#":
            return self.run(n, 1)[0].hex()
        table = self.values if packed[0] == "$" else self.acts
        need(n < len(table), "a reference to nothing")
        self.unused.discard(packed)
        return table[n]

    def envelope(self, payload, kind, signatures):
        return canonical(
            {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": kind,
                "signatures": [{"keyid": self.value(keyid), "sig": sig} for keyid, sig in signatures],
            }
        )


STATEMENT = "application/vnd.in-toto+json"
MANIFEST = "application/vnd.countersign.manifest+json"


def dsse_signed(kind, payload, signatures, spki):
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    mine = [one for one in signatures if one["keyid"] == sha_hex(spki)]
    return any(verifies(spki, message, unbase64(one["sig"])) for one in mine)


# The verifier ---------------------------------------------------------------------------------------------------------


class Party:
    def __init__(self, id_, policy):
        self.id, self.policy = id_, policy
        self.origin = policy.log.name
        self.keyset = self.keyset_act = self.grant = None
        self.chain, self.delegated, self.certified = [], 0, 0
        self.rotations, self.last_intent = [], -1


class Verifier:
    def __init__(self, root, policy):
        by_schema(policy, "records/policy")
        need(sha_hex(root) == policy["rootSha256"], "another root than the policy's")
        self.policy_digest = sha_hex(canonical(policy))
        self.root = read_certificate(root)
        self.root_der = root
        self.parties = {id_: Party(id_, Policy(text)) for id_, text in policy["logs"].items()}
        self.by_origin = {party.origin: party for party in self.parties.values()}
        need(len(self.by_origin) == len(self.parties), "two parties share a log")
        self.idle = set()
        self.seen, self.grants, self.lots, self.intents, self.handoffs = {}, {}, {}, {}, {}
        self.revoked = {}
        self.root_party = self.device = None
        self.at = None

    def verify(self, data):
        need(len(data) <= 1 << 20, "larger than 1 MiB")
        passport = parse_json(data)
        by_schema(passport, "records/passport")
        need(passport["policySha256"] == self.policy_digest, "made under another policy")
        unpack = Unpacker(passport, self.root_der)
        chains = [(one["purpose"], [unbase64(unpack.value(c)) for c in one["certificates"]]) for one in passport["chains"]]
        acts = [self.unpack_act(act, passport, unpack) for act in passport["acts"]]
        self.manifests = {}
        for one in passport["manifests"]:
            if "dsse" in one:
                envelope = unbase64(one["dsse"])
            else:
                payload = canonical(unpack.value(one["payload"]))
                envelope = unpack.envelope(payload, MANIFEST, one["signatures"])
            self.manifests[sha_hex(envelope)] = envelope
        need(not unpack.unused, "something that nothing refers to")
        need(len(self.manifests) == len(passport["manifests"]), "a manifest twice")
        self.idle = set(self.manifests)
        checkpoints = self.open_logs(passport)
        self.want, last = passport["device"], {}
        for n, act in enumerate(acts):
            self.at = n
            need(act["index"] > last.get(act["origin"], -1), "not after the one before it")
            last[act["origin"]] = act["index"]
            top = checkpoints[act["origin"]]
            self.included(act, top)
            self.take(act)
        self.at = None
        self.finish(chains, passport["openings"])
        return {"ok": True, "device": self.device["id"], "acts": len(acts)}

    def included(self, act, top):
        """What an earlier proof in this tree has shown is left out of the path."""
        rest, path, shown = list(act["path"]), [], {}
        for node, sibling in way_up(act["index"], top.size):
            known = top.nodes.get(sibling)
            need(known or rest, "the path is too short")
            path.append(known or rest.pop(0))
            shown[sibling] = path[-1]
        need(not rest, "the path is too long")
        need(path_root(leaf(act["entry"]), act["index"], top.size, path) == top.root, "not included at its place")
        hash_ = leaf(act["entry"])
        for (node, sibling), other in zip(way_up(act["index"], top.size), path):
            shown[node] = hash_
            hash_ = sha(b"\1" + other + hash_) if sibling < node else sha(b"\1" + hash_ + other)
        top.nodes.update(shown)

    def unpack_act(self, act, passport, unpack):
        need(act["log"] < len(passport["logs"]), "no such log")
        log = passport["logs"][act["log"]]
        own = {k: unpack.value(act[k]) for k in ("retryKey", "fields", "grant", "prev", "blobs") if k in act}
        predicate = {"prev": [], "blobs": [], **own, "time": act["time"], "origin": log["origin"], "party": log["party"]}
        name, digest = (unpack.value(one) for one in act["subject"])
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": digest}}],
            "predicateType": f"urn:countersign:act:{act['type']}:v1",
            "predicate": predicate,
        }
        payload = canonical(statement)
        need(len(payload) <= 65535, "an act too large")
        signatures = None
        entry = payload
        if "signatures" in act:
            entry = unpack.envelope(payload, STATEMENT, act["signatures"])
            signatures = json.loads(entry)["signatures"]
        unpack.acts.append({"leafHash": leaf(entry).hex(), "origin": log["origin"]})
        return {
            "type": act["type"],
            "index": act["index"],
            "origin": log["origin"],
            "entry": entry,
            "payload": payload,
            "statement": statement,
            "signatures": signatures,
            "path": unpack.path(act["path"]),
            "hash": leaf(entry).hex(),
        }

    def open_logs(self, passport):
        opened = {}
        for log in passport["logs"]:
            origin = log["origin"]
            need(origin in self.by_origin and origin not in opened, f"the log {origin}")
            policy = self.by_origin[origin].policy
            opened[origin] = open_checkpoint(log["checkpoint"], origin, policy)
            indices = [act["index"] for act in passport["acts"] if passport["logs"][act["log"]]["origin"] == origin]
            need(indices, f"no act is in {origin}")
            if "before" in log:
                before = open_checkpoint(log["before"], origin, policy)
                small = before.size <= max(indices) and before.size < opened[origin].size
                need(small, f"the earlier checkpoint of {origin}")
        return opened

    def take(self, act):
        kind, predicate = act["type"], act["statement"]["predicate"]
        by_schema(act["statement"], f"acts/{kind}")
        signed = "(signed act" in schema_of(f"acts/{kind}")["title"]
        need(signed == (act["signatures"] is not None), "signed, or not, against its type")
        party = self.by_origin[act["origin"]]
        need(predicate["party"] == party.id, "of another party")
        fields, time = predicate["fields"], predicate["time"]
        subject = act["statement"]["subject"][0]
        handler = getattr(self, "on_" + kind.replace("-", "_"), None)
        need(handler, f"{kind} acts have no place in a passport")
        named = {
            "delegation": fields.get("child"),
            **dict.fromkeys(("lot-opened", "intent"), fields.get("lot")),
            **dict.fromkeys(("handoff-released", "handoff-received"), fields.get("id")),
            **dict.fromkeys(("built", "attested", "certified", "injected", "installed", "revoked"), subject["name"]),
        }
        need(subject["name"] == named.get(kind, party.id), "about another subject")
        grant = predicate.get("grant")
        if grant is None:
            need(kind in ("keyset", "ceremony") or party.id == self.root_party, "without a grant")
        elif kind != "acceptance":
            held = self.grants.get(key_of(grant))
            need(held and held["accepted"] and held["fields"]["child"] == party.id, "not under its party's grant")
        names = [*predicate["prev"], *([grant] if grant else [])]
        names += [fields[k] for k in ("counterpart", "parentGrant") if k in fields]
        if kind == "acceptance":
            names.append(fields["keyset"])
        if kind == "rotated":
            names.append(fields["grant"])
        if kind == "certified":
            names.append({"origin": act["origin"], "leafHash": fields["intent"]["leafHash"]})
        for name in names:
            need(key_of(name) in self.seen, "names an act that isn't before it")
            need(instant(time) >= self.seen[key_of(name)] - HOUR, "before an act that it names")
        key = (act["origin"], act["hash"])
        need(key not in self.seen, "there twice")
        if signed:
            keyset = party.keyset or (fields["keyset"] if kind in ("keyset", "ceremony") else None)
            need(keyset, "signed before its party has named its keys")
            ok = dsse_signed(STATEMENT, act["payload"], act["signatures"], unbase64(keyset["act"]))
            need(ok, "not signed by its party's act key")
        manifest = None
        if "intake" in fields and fields["intake"]["kind"] == "manifest":
            manifest = self.manifest(fields["intake"]["digest"], party, time)
        context = {"act": act, "party": party, "fields": fields, "time": time, "subject": subject}
        handler(**context, key=key, prev=predicate["prev"], grant=grant, manifest=manifest)
        self.seen[key] = instant(time)

    def manifest(self, digest, party, time):
        need(digest in self.manifests, "its manifest isn't there")
        self.idle.discard(digest)
        envelope = parse_json(self.manifests[digest])
        by_schema(envelope, "records/dsse")
        need(envelope["payloadType"] == MANIFEST, "its manifest is something else")
        payload = unbase64(envelope["payload"])
        manifest = parse_json(payload)
        by_schema(manifest, "records/manifest")
        signer = read_certificate(unbase64(manifest["certificate"]))
        need(party.keyset, "no infrastructure key is known")
        issued = verifies(unbase64(party.keyset["infrastructure"]), signer.tbs_certificate_bytes, signer.signature)
        need(issued, "the manifest's signer isn't of the party")
        need(not is_ca(signer), "the manifest's signer is a CA")
        spki = spki_of(signer)
        ok = manifest["keyId"] == sha_hex(spki) and dsse_signed(MANIFEST, payload, envelope["signatures"], spki)
        need(ok, "the manifest isn't signed by its certificate")
        begins, ends = signer.not_valid_before_utc, signer.not_valid_after_utc
        need(instant(time) >= begins and instant(manifest["created"]) <= ends, "the manifest's signer wasn't valid")
        roles = [one.value for one in signer.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
        role = "technician" if manifest["kind"] == "install" else "station"
        need(roles == [role], f"the manifest's signer is no {role}")
        return manifest

    def check_keyset(self, keyset, party):
        log = keyset["log"]
        first = party.policy.log
        vkey = f"{first.name}+{first.id}+{base64.b64encode(bytes([1]) + first.raw).decode()}"
        need(log["origin"] == party.origin and log["vkey"] == vkey, "another log key than the policy's")
        checkpoint = Checkpoint(keyset["proofs"]["log"]["checkpoint"], [first])
        need(checkpoint.origin == party.origin and checkpoint.size == 0 and checkpoint.signed, "the log key's proof")
        message = canonical({name: item for name, item in keyset.items() if name != "proofs"})
        signature = unbase64(keyset["proofs"]["witness"]["signature"])
        witness = Key(keyset["witness"]["vkey"])
        need(ed25519_verifies(witness.raw, b"countersign/keyset/v1\n" + message, signature), "the witness key's proof")

    def on_keyset(self, party, fields, key, **_):
        keyset = fields["keyset"]
        need(keyset["party"] == party.id and not party.keyset, "the party's keys")
        need(keyset["proofs"]["ca"]["kind"] == "csr", "the CA key's proof")
        self.check_keyset(keyset, party)
        party.keyset, party.keyset_act = keyset, key

    def on_ceremony(self, party, fields, **_):
        keyset = fields["keyset"]
        need(unbase64(fields["root"]) == self.root_der, "another root")
        need(self.root_party is None and not party.keyset and not party.chain, "a second ceremony")
        proof = keyset["proofs"]["ca"]
        need(keyset["party"] == party.id and unbase64(keyset["ca"]) == spki_of(self.root), "not the root's key")
        need(proof["kind"] == "self-signed" and proof["sha256"] == sha_hex(self.root_der), "the CA key's proof")
        self.check_keyset(keyset, party)
        crl = x509.load_der_x509_crl(unbase64(fields["crl"]))
        need(crl.is_signature_valid(self.root.public_key()), "the root's CRL")
        self.root_party, party.keyset, party.chain = party.id, keyset, [self.root]

    def on_delegation(self, party, fields, key, time, grant, **_):
        own = party.grant and party.grant["fields"]
        need(own or party.id == self.root_party, "the party has no grant itself")
        if "supersedes" in fields:
            before = self.grants.get(key_of(fields["supersedes"]))
            need(before and before["by"] == party.id, "it revises no grant of this party's")
            was = before["fields"]
            need("renewed" not in before and fields["revision"] == was["revision"] + 1, "not the next revision")
            before["renewed"] = True
            while before:
                taken = self.revoked.get(before["key"])
                need(not taken or taken["effect"] == "lift", "it revises what was revoked")
                before = self.grants.get(key_of(before["fields"].get("supersedes")))
            renewed = ("revision", "supersedes", "parentGrant", "issuer", "certificate", "notAfter")
            if ca_of(fields) != ca_of(was):
                need("ca" in fields, "back to an earlier key")
                renewed += ("ca", "csrSha256", "nonceSha256")
            fixed = [{k: v for k, v in one.items() if k not in renewed} for one in (was, fields)]
            need(fixed[0] == fixed[1] and fields["notAfter"] >= was["notAfter"], "the revision changes its terms")
        else:
            need(fields["revision"] == 1 and "ca" not in fields, "a revision of nothing")
            party.delegated += fields["quota"]
        if own:
            need(own["notBefore"] <= time <= own["notAfter"], "its own grant isn't in force")
            need(key_of(fields.get("parentGrant")) == party.grant["key"], "another parent grant")
            need(own["depth"] >= 1 and fields["depth"] < own["depth"], "too deep")
            need(fields["pathLen"] < own["pathLen"], "the path length")
            need(own["notBefore"] <= fields["notBefore"] and fields["notAfter"] <= own["notAfter"], "the window")
            need(own["mayBuild"] or not fields["mayBuild"], "building")
            inside = all(any(p.startswith(o) for o in own["idPrefixes"]) for p in fields["idPrefixes"])
            need(inside, "outside its namespace")
            mine = {one["sha256"] for one in own["profiles"]}
            need(all(one["sha256"] in mine for one in fields["profiles"]), "a profile it may not use")
            need(party.delegated + party.certified <= own["quota"], "above its quota")
        need(party.chain and unbase64(fields["issuer"]) == spki_of(party.chain[0]), "another issuer")
        certificate = read_certificate(unbase64(fields["certificate"]))
        need(spki_of(certificate) == unbase64(ca_of(fields)), "the certificate's key")
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        need(limits.ca and limits.path_length == fields["pathLen"], "the certificate's path length")
        chain = [certificate, *party.chain]
        valid_path(chain, self.root, time)
        need(fields["child"] in self.parties, "no ledger of the child")
        self.check_keyset(fields["keyset"], self.parties[fields["child"]])
        self.grants[key] = {"key": key, "by": party.id, "fields": fields, "chain": chain, "accepted": False}

    def on_acceptance(self, party, fields, grant, **_):
        given = self.grants.get(key_of(grant))
        need(given and given["fields"]["child"] == party.id, "no grant to this party")
        need(party.keyset_act and key_of(fields["keyset"]) == party.keyset_act, "another keyset act")
        need(given["fields"]["keyset"] == party.keyset, "the grant pins other keys")
        ders = [one.public_bytes(serialization.Encoding.DER) for one in given["chain"]]
        need(sha_hex(b"".join(ders)) == fields["chainSha256"], "another chain")
        place = self.place_of(given)
        need(not party.chain or (place and party.grant and place == party.grant["key"]), "a second grant")
        present = party.rotations[-1]["new"] if party.rotations else party.keyset["ca"]
        need(ca_of(given["fields"]) == present, "a CA key that isn't the party's")
        if party.rotations and party.grant and ca_of(party.grant["fields"]) != present:
            need(party.rotations[-1]["grant"] == given["key"], "another grant than the change of key is for")
        given["accepted"], party.grant, party.chain = True, given, given["chain"]

    def place_of(self, given):
        """The grant that it takes the place of, past those for keys of their own that were never accepted."""
        while True:
            place = key_of(given["fields"].get("supersedes"))
            before = self.grants.get(place)
            if not before or before.get("accepted") or "supersedes" not in before["fields"]:
                return place
            if ca_of(before["fields"]) == ca_of(given["fields"]):
                return place
            given = before

    def on_rotated(self, act, party, fields, grant, **_):
        old, new = fields["old"], fields["new"]
        need(party.grant and key_of(grant) == party.grant["key"], "not under the grant in force")
        given = self.grants.get(key_of(fields["grant"]))
        need(given and given["fields"]["child"] == party.id, "no grant to this party")
        need(self.place_of(given) == party.grant["key"], "its grant supersedes another")
        need(old["spki"] == (party.rotations[-1]["new"] if party.rotations else party.keyset["ca"]), "not its CA key")
        need(new["spki"] == ca_of(given["fields"]), "not the grant's key")
        former = [party.keyset["ca"], *(one["old"] for one in party.rotations)]
        need(new["spki"] not in former and new["spki"] != old["spki"], "a key that it had before")
        said = ["countersign/rotation/v1", "ca", party.id, *party.grant["key"], old["spki"], new["spki"]]
        challenge = sha_hex(canonical(said)).encode()
        for one in (old, new):
            csr = x509.load_der_x509_csr(unbase64(one["proof"]))
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            spki = csr.public_key().public_bytes(serialization.Encoding.DER, form)
            need(csr.is_signature_valid and spki == unbase64(one["spki"]), "a proof by another key")
            found = csr.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD)
            need(found.value == challenge, "a proof for another change")
        size = fields["effectiveSize"]
        need(size <= act["index"] and party.last_intent < size, "its effective size")
        party.rotations.append({"old": old["spki"], "new": new["spki"], "grant": given["key"]})

    def on_lot_opened(self, party, fields, time, **_):
        need(party.id in (fields["builder"], fields["issuer"]), "neither builder nor issuer")
        if fields["builder"] == party.id and party.id != self.root_party:
            own = party.grant and party.grant["fields"]
            need(own and own["mayBuild"] and own["notBefore"] <= time <= own["notAfter"], "it may not build")
        lot = self.lots.setdefault(fields["lot"], {"terms": fields, "by": set()})
        terms = "slots", "builder", "issuer", "profile", "layouts", "attestation"
        same = all(lot["terms"].get(k) == fields.get(k) for k in terms)
        need(same and party.id not in lot["by"], "opened twice, or on other terms")
        lot["by"].add(party.id)

    def open_lot(self, id_, party):
        lot = self.lots.get(id_)
        need(lot and party.id in lot["by"], "the lot isn't open")
        return lot["terms"]

    def check_intake(self, kind, item, manifest, fields, csr=None):
        intake = fields["intake"]
        if intake["kind"] == "est":
            need(csr is not None and intake["csrSha256"] == csr, "another request")
            return
        need(manifest["kind"] == kind and manifest["lot"] == fields["lot"], "a manifest of another kind or lot")
        args = intake["index"], manifest["count"], intake["path"], manifest["root"]
        in_list(canonical(item), *args, "not in its manifest")

    def on_built(self, party, fields, key, subject, manifest, **_):
        lot = self.open_lot(fields["lot"], party)
        need(lot["builder"] == party.id, "not the builder")
        need(sha_hex(unbase64(fields["spki"])) == subject["digest"]["sha256"], "another key")
        need(fields["slot"] <= lot["slots"], "the slot")
        need(self.device is None, "a second device")
        self.check_intake("built", ["csr", fields["csrSha256"]], manifest, fields, fields["csrSha256"])
        self.device = {
            "id": subject["name"],
            "key": subject["digest"]["sha256"],
            "csr": fields["csrSha256"],
            "lot": fields["lot"],
            "slot": fields["slot"],
            "holder": party.id,
            "last": key,
        }
        need(self.device["id"] == self.want["id"] and self.device["key"] == self.want["spkiSha256"], "another device")

    def on_handoff_released(self, party, fields, key, **_):
        self.open_lot(fields["lot"], party)
        device = self.device
        mine = device and device["holder"] == party.id and device["lot"] == fields["lot"]
        need(fields["from"] == party.id and fields["id"] not in self.handoffs and mine, "it hasn't the device")
        item = ["handoff", device["id"], device["key"], device["csr"], device["slot"], device["last"][1]]
        self.handoffs[fields["id"]] = {"key": key, "fields": fields, "item": item, "received": False}
        device["holder"] = None

    def on_handoff_received(self, party, fields, key, **_):
        handoff = self.handoffs.get(fields["id"])
        need(handoff and not handoff["received"], "no such release")
        need(key_of(fields["counterpart"]) == handoff["key"], "another counterpart")
        need(fields["to"] == party.id == handoff["fields"]["to"], "released to somebody else")
        same = all(fields[k] == handoff["fields"][k] for k in ("lot", "from", "count", "listRoot"))
        need(same, "another list")
        self.open_lot(fields["lot"], party)
        handoff["received"] = True
        if any(text.startswith(f"{self.device['id']}: ") for text in fields["discrepancies"]):
            return
        self.device.update(holder=party.id, last=key, list=(handoff["item"], fields["count"], fields["listRoot"]))

    def held(self, party, fields, subject, key, prev):
        device = self.device
        need(device, "nothing was built")
        about = (subject["name"], subject["digest"]["sha256"], fields["lot"], fields["slot"])
        need(about == (device["id"], device["key"], device["lot"], device["slot"]), "another device")
        need(device["holder"] == party.id, "it hasn't the device")
        link = next((one for one in prev if key_of(one) == device["last"]), None)
        need(link, "it doesn't continue the device's last act")
        if "list" in device:
            item, count, root = device.pop("list")
            need("listIndex" in link and "path" in link, "it doesn't show the device in the list")
            in_list(canonical(item), link["listIndex"], count, link["path"], root, "not in the handoff's list")
        device["last"] = key
        taken = self.revoked.get(device.get("certified"))
        need(not taken or taken["effect"] == "lift" or device["certified"][0] != key[0], "after its revocation")
        return device

    def on_intent(self, act, party, fields, key, grant, **_):
        self.open_lot(fields["lot"], party)
        given = self.grants.get(key_of(grant))
        ca = given and ca_of(given["fields"])
        need(not given or not party.rotations or ca == party.rotations[-1]["new"], "under a CA key that was given up")
        party.last_intent = act["index"]
        self.intents[key] = {**fields, "ca": ca}

    def on_attested(self, act, party, fields, key, subject, prev, **_):
        lot = self.open_lot(fields["lot"], party)
        need(lot["issuer"] == party.id and "attestation" in lot, "not the issuer, or not asked for")
        device = self.held(party, fields, subject, key, prev)
        need("certificate" not in device and "attested" not in device, "attested too late, or twice")
        need(fields["tpm"]["root"] in lot["attestation"]["vendorRoots"], "another vendor's TPM")
        blobs = act["statement"]["predicate"]["blobs"]
        need([b["sha256"] for b in blobs if b["name"] == "attestation"] == [fields["evidence"]], "another evidence")
        device["attested"] = True

    def on_certified(self, act, party, fields, key, subject, prev, grant, time, manifest, **_):
        lot = self.open_lot(fields["lot"], party)
        need(lot["issuer"] == party.id, "not the issuer")
        party.certified += 1
        given = self.grants.get(key_of(grant))
        need(given and given["fields"]["child"] == party.id and given["accepted"], "no grant to it")
        terms = given["fields"]
        need(any(subject["name"].startswith(p) for p in terms["idPrefixes"]), "outside its namespace")
        profile = fields["profile"]
        need(any(one["sha256"] == profile["sha256"] for one in terms["profiles"]), "not its profile")
        need(profile["sha256"] == lot["profile"]["sha256"], "not the lot's profile")
        need(terms["notBefore"] <= time <= terms["notAfter"], "outside its window")
        need(party.certified + party.delegated <= terms["quota"], "above its quota")
        need(fields["purpose"] == "initial" and "renews" not in fields, "a renewal")
        device = self.held(party, fields, subject, key, prev)
        need("certificate" not in device, "certified twice")
        need("attestation" not in lot or "attested" in device, "not attested")
        certificate = read_certificate(unbase64(fields["certificate"]))
        valid_path([certificate, *given["chain"]], self.root, time)
        names = [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        need(names == [device["id"]], "the certificate's name")
        need(sha_hex(spki_of(certificate)) == device["key"], "the certificate's key")
        need(profile["name"] in DEVICE_PROFILES and not is_ca(certificate), "not a device's profile")
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        need(usage.digital_signature and not usage.key_cert_sign and not usage.crl_sign, "not a device's key usage")
        intent = self.intents.get((act["origin"], fields["intent"]["leafHash"]))
        need(intent and intent["lot"] == fields["lot"], "no intent")
        need(intent["ca"] == ca_of(terms), "under another CA key than its intent")
        if fields["intake"]["kind"] == "manifest":
            need(intent["manifest"] == fields["intake"]["digest"], "an intent for another batch")
        where = fields["intent"]["index"], intent["count"], fields["intent"]["path"], intent["tbsRoot"]
        in_list(sha(certificate.tbs_certificate_bytes), *where, "not what was intended")
        self.check_intake("certify", ["csr", device["csr"]], manifest, fields, device["csr"])
        chain = [certificate, *given["chain"]]
        device["certificate"] = [one.public_bytes(serialization.Encoding.DER) for one in chain]
        device["certified"] = key
        device["purpose"] = "ldevid" if profile["name"] == "ldevid" else "idevid"

    def on_injected(self, party, fields, key, subject, prev, **_):
        device = self.held(party, fields, subject, key, prev)
        need("certificate" in device and "injected" not in device, "injected too early, or twice")
        receipt, layouts = fields["receipt"], self.lots[fields["lot"]]["terms"]["layouts"]
        need((receipt["deviceId"], receipt["lot"], receipt["slot"]) == (device["id"], device["lot"], device["slot"]), "another device's receipt")
        layout = layouts[(device["slot"] - 1) % len(layouts)]
        told = fields["layoutSha256"], receipt["format"], receipt["original"]["sha256"]
        need(told == (layout["sha256"], layout["format"], layout["template"]["sha256"]), "another firmware")
        ders = device["certificate"][:-1]
        injected = b"".join(ders)
        if receipt["chain"]["encoding"] != "der":
            encoding = serialization.Encoding.PEM
            injected = b"".join(read_certificate(der).public_bytes(encoding) for der in ders)
            injected += b"\0" if receipt["chain"]["encoding"] == "pem-nul" else b""
        digests = {receipt["chain"]["sha256"], fields["readBack"]["sha256"], *(c["sha256"] for c in fields["chains"])}
        need(digests == {sha_hex(injected)} and len(fields["chains"]) == 1, "another chain")
        need(fields["chains"][0]["certificates"] == len(ders), "how many certificates")
        device["injected"] = True

    def on_installed(self, party, fields, key, subject, prev, manifest, **_):
        device = self.held(party, fields, subject, key, prev)
        need("certificate" in device and "installed" not in device, "installed too early, or twice")
        self.check_intake("install", ["install", device["id"], fields["place"], fields["time"]], manifest, fields)
        need(manifest["keyId"] == fields["technician"], "another technician")
        device["installed"] = {fields["place"], fields["time"]}

    def on_revoked(self, party, fields, key, subject, prev, **_):
        told = fields["certificate"]
        held = (key[0], told["act"])
        if fields["target"] == "ca":
            grant = self.grants.get(held)
            need(grant and grant["fields"]["child"] == subject["name"], "no CA's certificate")
            certificate = grant["chain"][0]
        else:
            device = self.device
            need(device and device.get("certified") == held and device["id"] == subject["name"], "no certificate")
            certificate = read_certificate(device["certificate"][0])
        serial = f"{certificate.serial_number:x}"
        shown = (serial.zfill(len(serial) + len(serial) % 2), sha_hex(certificate.public_bytes(serialization.Encoding.DER)))
        need(shown == (told["serial"], told["sha256"]), "another certificate")
        need(subject["digest"]["sha256"] == sha_hex(spki_of(certificate)), "another key")
        before = self.revoked.get(held)
        need((before["key"] if before else held) in [key_of(one) for one in prev], "it continues something else")
        effect, was = fields["effect"], before and before["effect"]
        need(was != "final" and not (effect == was == "hold") and (effect != "lift" or was == "hold"), "no such step")
        self.revoked[held] = {"key": key, "effect": effect}

    def finish(self, chains, openings):
        device = self.device
        need(device, "no device was built")
        need(not self.idle, "a manifest that no act names")
        need(all(grant["accepted"] for grant in self.grants.values()), "a grant that nobody accepted")
        need(all(one["effect"] == "lift" for one in self.revoked.values()), "revoked")
        need("certificate" in device, "never certified")
        need("list" not in device, "nothing shows it in its last handoff's list")
        need(chains == [(device["purpose"], device["certificate"][:-1])], "another chain")
        need(len({one["commitment"] for one in openings}) == len(openings), "an opening twice")
        for one in openings:
            message = f"countersign/commitment/v1/{one['domain']}\n".encode()
            found = sha_hex(message + bytes.fromhex(one["salt"]) + canonical(one["value"]))
            need(found == one["commitment"] and found in device.get("installed", ()), "an opening of nothing")


def ca_of(grant):
    return grant.get("ca", grant["keyset"]["ca"])


def key_of(ref):
    return ref and (ref["origin"], ref["leafHash"])


def judge(item):
    verifier = None
    try:
        verifier = Verifier(unbase64(item["root"]), item["policy"])
        return verifier.verify(base64.b64decode(item["passport"]))
    except (Refused, ValueError, KeyError, IndexError, TypeError, RecursionError, x509.ExtensionNotFound) as error:
        why = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        return {"ok": False, "why": why, "act": verifier and verifier.at}


for line in sys.stdin:
    print(json.dumps(judge(json.loads(line))), flush=True)
