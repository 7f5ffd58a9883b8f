"""An authority for one test, and certificates that it signs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Signed:
    """`authority` is its certificate's file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.authority = self._write("authority", self._sign(self._name, self._key, None))[0]

    def leaf(self, name: str) -> tuple[Path, Path]:
        """(certificate, key) for this DNS name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._write(name, self._sign(subject, key, name), key)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, name: str | None) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name is None, path_length=None), critical=True)
        )
        if name is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(
        self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None
    ) -> tuple[Path, Path]:
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        pem = serialization.Encoding.PEM
        files[0].write_bytes(certificate.public_bytes(pem))
        if key is not None:
            none = serialization.NoEncryption()
            files[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
        return files
