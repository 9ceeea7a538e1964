/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Why TLS failed: wolfSSL's errors and the peers' alerts as reasons of why.def, by table. What is
 * in no table is TLS_WHY_PROTOCOL, and TLS_WHY_ALERT for an alert.
 */
#include "tls/tls_int.h"

static const struct {
	const char *word, *text;
} reasons[] = {
#define X(id, log_word, sentence) [id] = {log_word, sentence},
#include "tls/why.def"
#undef X
};

const char *tls_why_word(enum tls_why w)
{
	ASSERT(w < TLS_WHY_COUNT);
	return reasons[w].word;
}

const char *tls_why_text(enum tls_why w)
{
	ASSERT(w < TLS_WHY_COUNT);
	return reasons[w].text;
}

struct mapped {
	int from;
	enum tls_why to;
};

static const struct mapped errors[] = {
	/* the peer's certificate */
	{ASN_BEFORE_DATE_E, TLS_WHY_EXPIRED},
	{ASN_AFTER_DATE_E, TLS_WHY_EXPIRED},
	{ASN_SELF_SIGNED_E, TLS_WHY_SELF_SIGNED},
	{ASN_NO_SIGNER_E, TLS_WHY_UNKNOWN_CA},
	{DOMAIN_NAME_MISMATCH, TLS_WHY_NAME},
	{IPADDR_MISMATCH, TLS_WHY_NAME},
	{NO_PEER_CERT, TLS_WHY_NO_CERTIFICATE},
	{VERIFY_CERT_ERROR, TLS_WHY_BAD_CERTIFICATE},
	{UNSUPPORTED_CERTIFICATE, TLS_WHY_BAD_CERTIFICATE},
	{ASN_PARSE_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_VERSION_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_CRIT_EXT_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_SIG_OID_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_SIG_HASH_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_SIG_KEY_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_SIG_CONFIRM_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_NAME_INVALID_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_PATHLEN_SIZE_E, TLS_WHY_BAD_CERTIFICATE},
	{ASN_PATHLEN_INV_E, TLS_WHY_BAD_CERTIFICATE},
	{KEYUSAGE_E, TLS_WHY_BAD_CERTIFICATE},
	{EXTKEYUSAGE_E, TLS_WHY_BAD_CERTIFICATE},
	{KEYUSE_SIGNATURE_E, TLS_WHY_BAD_CERTIFICATE},
	{KEYUSE_ENCIPHER_E, TLS_WHY_BAD_CERTIFICATE},
	{EXTKEYUSE_AUTH_E, TLS_WHY_BAD_CERTIFICATE},
	{RSA_KEY_SIZE_E, TLS_WHY_BAD_CERTIFICATE},
	{ECC_KEY_SIZE_E, TLS_WHY_BAD_CERTIFICATE},
	{PEER_KEY_ERROR, TLS_WHY_BAD_CERTIFICATE},
	{NO_PEER_KEY, TLS_WHY_BAD_CERTIFICATE},
	{MAX_CHAIN_ERROR, TLS_WHY_BAD_CERTIFICATE},
	{NOT_CA_ERROR, TLS_WHY_BAD_CERTIFICATE},
	{OCSP_CERT_REVOKED, TLS_WHY_BAD_CERTIFICATE},
	{CRL_CERT_REVOKED, TLS_WHY_BAD_CERTIFICATE},
	/* nothing in common */
	{VERSION_ERROR, TLS_WHY_VERSION},
	{UNSUPPORTED_PROTO_VERSION, TLS_WHY_VERSION},
	{MATCH_SUITE_ERROR, TLS_WHY_CIPHER},
	{UNSUPPORTED_SUITE, TLS_WHY_CIPHER},
	{SUITES_ERROR, TLS_WHY_CIPHER},
	{KEY_SHARE_ERROR, TLS_WHY_CIPHER},
	{BAD_KEY_SHARE_DATA, TLS_WHY_CIPHER}, /* also: no group in common */
	{ECC_CURVE_ERROR, TLS_WHY_CIPHER},
	{ECC_CURVETYPE_ERROR, TLS_WHY_CIPHER},
	{UNKNOWN_ALPN_PROTOCOL_NAME_E, TLS_WHY_ALPN},
	/* records */
	{VERIFY_MAC_ERROR, TLS_WHY_RECORD},
	{DECRYPT_ERROR, TLS_WHY_RECORD},
	{VERIFY_FINISHED_ERROR, TLS_WHY_RECORD},
	{LENGTH_ERROR, TLS_WHY_RECORD},
	{SEQUENCE_ERROR, TLS_WHY_RECORD},
	{UNKNOWN_RECORD_TYPE, TLS_WHY_RECORD},
	{AES_GCM_AUTH_E, TLS_WHY_RECORD},
	{MAC_CMP_FAILED_E, TLS_WHY_RECORD},
	/* ours */
	{MEMORY_E, TLS_WHY_MEMORY},
	{MEMORY_ERROR, TLS_WHY_MEMORY},
};

/* RFC 8446 6. Those about a certificate are about ours. */
static const struct mapped alerts[] = {
	{40, TLS_WHY_CIPHER},	       /* handshake_failure */
	{41, TLS_WHY_REFUSED},	       /* no_certificate (SSL 3) */
	{42, TLS_WHY_REFUSED},	       /* bad_certificate */
	{43, TLS_WHY_REFUSED},	       /* unsupported_certificate */
	{44, TLS_WHY_REFUSED},	       /* certificate_revoked */
	{45, TLS_WHY_REFUSED},	       /* certificate_expired */
	{46, TLS_WHY_REFUSED},	       /* certificate_unknown */
	{48, TLS_WHY_REFUSED},	       /* unknown_ca */
	{70, TLS_WHY_VERSION},	       /* protocol_version */
	{71, TLS_WHY_CIPHER},	       /* insufficient_security */
	{116, TLS_WHY_NO_CERTIFICATE}, /* certificate_required */
	{120, TLS_WHY_ALPN},	       /* no_application_protocol */
};

static enum tls_why look_up(const struct mapped *m, size_t n, int from, enum tls_why other)
{
	for (size_t i = 0; i < n; i++)
		if (m[i].from == from)
			return m[i].to;
	return other;
}

enum tls_why why_of_error(int err)
{
	return look_up(errors, ARRAY_LEN(errors), err, TLS_WHY_PROTOCOL);
}

enum tls_why why_of_alert(unsigned alert)
{
	return look_up(alerts, ARRAY_LEN(alerts), (int)alert, TLS_WHY_ALERT);
}
