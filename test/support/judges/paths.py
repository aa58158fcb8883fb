"""pyca cryptography's X.509 path validation over many chains in one process.

Standard input: lines of JSON {"chain": [base64, leaf first], "root": base64, "at": seconds}.
Standard output: for each, in order, {"ok": true} or {"ok": false, "why": text}; `why` begins with "unreadable:" where
the certificates couldn't even be parsed.
"""
import base64
import datetime
import json
import sys
import warnings

from cryptography import x509
from cryptography.x509 import verification

warnings.simplefilter("ignore")

# CAs by its strict defaults. Leaves by those too, save that a device needs no alternative names and no key purpose.
POLICIES = {
    "ca_policy": verification.ExtensionPolicy.webpki_defaults_ca(),
    "ee_policy": verification.ExtensionPolicy.permit_all(),
}


def read(text):
    return x509.load_der_x509_certificate(base64.b64decode(text))


def judge(item):
    try:
        leaf, *others = [read(one) for one in item["chain"]]
        root = read(item["root"])
    except Exception as error:
        return {"ok": False, "why": f"unreadable: {error}"}
    at = datetime.datetime.fromtimestamp(item["at"], datetime.timezone.utc).replace(tzinfo=None)
    builder = verification.PolicyBuilder().store(verification.Store([root])).time(at).max_chain_depth(10)
    try:
        builder.extension_policies(**POLICIES).build_client_verifier().verify(leaf, others)
        return {"ok": True}
    except verification.VerificationError as error:
        return {"ok": False, "why": str(error)}
    except Exception as error:
        return {"ok": False, "why": f"unreadable: {type(error).__name__} {error}"}


for line in sys.stdin:
    print(json.dumps(judge(json.loads(line))))
