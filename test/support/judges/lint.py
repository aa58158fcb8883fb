"""pkilint (RFC 5280 validators) over many certificates and CRLs in one process.

Standard input: lines of JSON {"kind": "certificate" | "crl", "der": base64}.
Standard output: for each, in order, a JSON array of [severity, code, message].
"""
import base64
import json
import sys

from pkilint import loader, pkix
from pkilint.pkix import certificate, crl, extension, name

CERTIFICATE = certificate.create_pkix_certificate_validator_container(
    certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
    [
        certificate.create_issuer_validator_container([]),
        certificate.create_validity_validator_container(),
        certificate.create_subject_validator_container([]),
        certificate.create_extensions_validator_container([]),
        certificate.create_spki_validator_container([]),
    ],
)
CRL = crl.create_pkix_crl_validator_container(
    [
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ],
    [
        crl.create_issuer_validator_container([]),
        crl.create_validity_validator_container([]),
        crl.create_extensions_validator_container([]),
    ],
)
LOADERS = {
    "certificate": (loader.RFC5280CertificateDocumentLoader(), CERTIFICATE),
    "crl": (loader.RFC5280CertificateListDocumentLoader(), CRL),
}

for line in sys.stdin:
    item = json.loads(line)
    load, validator = LOADERS[item["kind"]]
    document = load.load_der_document(base64.b64decode(item["der"]), "input")
    findings = [
        [one.finding.severity.name, one.finding.code, one.message or ""]
        for result in validator.validate(document.root)
        for one in result.finding_descriptions
    ]
    print(json.dumps(findings))
