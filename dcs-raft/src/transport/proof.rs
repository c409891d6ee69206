//! Both sides show that they know the password, and show it for this one connection.
//!
//! What is proved is bound to the TLS session by a value that only its two ends can compute (RFC 8446, 7.5), and to the
//! bytes that were exchanged before it. Somebody in between has two sessions with two values, and cannot use what one
//! side says to convince the other; nor can a recording be used again. Nobody learns the password from a proof except by
//! guessing, and each guess costs what the key costs to derive.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{hmac, pbkdf2};

/// How many bytes a proof has.
pub(super) const LENGTH: usize = 32;

/// What the two ends of a TLS session can compute, and nobody else.
pub(super) type Binding = [u8; 32];

/// The label under which TLS makes a [`Binding`].
pub(super) const BINDING_LABEL: &[u8] = b"EXPORTER-quorate-raft-password";

const SALT: &[u8] = b"quorate raft transport, password, version 1";
const ITERATIONS: NonZeroU32 = match NonZeroU32::new(600_000) {
    Some(iterations) => iterations,
    None => panic!("it is not zero"),
};

/// Which side speaks. Each side's proof is of no use as the other's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Connecting,
    Accepting,
}

impl Side {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Connecting => b"client",
            Self::Accepting => b"server",
        }
    }
}

/// What is made of the password, once.
#[derive(Clone)]
pub(super) struct ProofKey(hmac::Key);

impl ProofKey {
    /// Takes long, on purpose: whoever guesses has to do the same for each guess.
    pub(super) fn derive(password: &str) -> Self {
        let mut key = [0; LENGTH];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, SALT, password.as_bytes(), &mut key);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// What this side says.
    pub(super) fn proof(&self, side: Side, binding: &Binding) -> [u8; LENGTH] {
        let tag = hmac::sign(&self.0, &said(side, binding));
        let mut proof = [0; LENGTH];
        proof.copy_from_slice(tag.as_ref());
        proof
    }

    /// Whether the other side, which is `side`, said what it should. Takes the same time whatever it said.
    pub(super) fn is_proved_by(&self, side: Side, binding: &Binding, proof: &[u8; LENGTH]) -> bool {
        hmac::verify(&self.0, &said(side, binding), proof).is_ok()
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey(..)")
    }
}

fn said(side: Side, binding: &Binding) -> Vec<u8> {
    [side.label(), binding].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_password_its_side_and_its_connection_only() {
        let (key, other) = (ProofKey::derive("secret"), ProofKey::derive("Secret"));
        let (here, elsewhere) = ([1; 32], [2; 32]);
        let proof = key.proof(Side::Connecting, &here);
        assert!(key.is_proved_by(Side::Connecting, &here, &proof));
        assert!(!key.is_proved_by(Side::Accepting, &here, &proof), "said back to who said it");
        assert!(!key.is_proved_by(Side::Connecting, &elsewhere, &proof), "said on another connection");
        assert!(!other.is_proved_by(Side::Connecting, &here, &proof), "another password");
    }
}
