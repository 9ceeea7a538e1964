/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reading certificates (cert.h): wolfCrypt's decoder, and a few steps through DER by hand for the
 * public key with its header, which the decoder does not show.
 */
#include "tls/cert.h"

#include "tls/hello.h"
#include "tls/wolf.h"

#include <time.h>
#include <wolfssl/wolfcrypt/asn.h>
#include <wolfssl/wolfcrypt/sha256.h>

/* ---- names ---- */

static struct span without_dot(struct span name)
{
	if (name.n > 0 && name.p[name.n - 1] == '.')
		name.n--;
	return name;
}

static size_t first_dot(struct span name)
{
	size_t i = 0;

	while (i < name.n && name.p[i] != '.')
		i++;
	return i;
}

bool name_covers(struct span pattern, struct span host)
{
	size_t label;

	host = without_dot(host);
	pattern = without_dot(pattern);
	if (pattern.n < 2 || pattern.p[0] != '*' || pattern.p[1] != '.')
		return host.n > 0 && span_ieq(pattern, host);
	pattern = span_drop(pattern, 1);
	label = first_dot(host);
	if (label == 0 || first_dot(span_drop(pattern, 1)) == pattern.n - 1)
		return false;
	return span_ieq(pattern, span_drop(host, label));
}

static void names_of(const DecodedCert *d, bool (*each)(void *arg, struct span name), void *arg)
{
	for (const DNS_entry *n = d->altNames; n != NULL; n = n->next)
		if (n->type == ASN_DNS_TYPE && !each(arg, span_of(n->name, (size_t)n->len)))
			return;
	if (!d->extSubjAltNameSet && d->subjectCN != NULL && d->subjectCNLen > 0)
		(void)each(arg, span_of(d->subjectCN, (size_t)d->subjectCNLen));
}

static bool decode(struct span der, DecodedCert *d)
{
	if (der.n > UINT32_MAX / 2)
		return false;
	wc_InitDecodedCert(d, der.p, (word32)der.n, NULL);
	if (wc_ParseCert(d, CERT_TYPE, NO_VERIFY, NULL) == 0)
		return true;
	wc_FreeDecodedCert(d);
	return false;
}

void cert_names(struct span der, bool (*each)(void *arg, struct span name), void *arg)
{
	DecodedCert d;

	if (!decode(der, &d))
		return;
	names_of(&d, each, arg);
	wc_FreeDecodedCert(&d);
}

struct covering {
	struct span host;
	bool found;
};

static bool is_covered(void *arg, struct span name)
{
	struct covering *c = arg;

	c->found = name_covers(name, c->host);
	return !c->found;
}

bool cert_covers(struct span der, struct span host)
{
	struct covering c = {.host = host};

	cert_names(der, is_covered, &c);
	return c.found;
}

/* ---- DER ---- */

/* The next element: all of it, and what is in it. False: there is none, or it does not fit. */
static bool der_next(struct span *left, struct span *whole, struct span *inside)
{
	size_t head = 2, len, octets;

	if (left->n < 2)
		return false;
	len = left->p[1];
	if (len >= 0x80) {
		octets = len & 0x7f;
		if (octets == 0 || octets > 4 || left->n < 2 + octets)
			return false;
		len = 0;
		for (size_t i = 0; i < octets; i++)
			len = len << 8 | left->p[2 + i];
		head += octets;
	}
	if (len > left->n - head)
		return false;
	*whole = span_of(left->p, head + len);
	*inside = span_of(left->p + head, len);
	*left = span_drop(*left, head + len);
	return true;
}

/* TBSCertificate: [0] version, serial, algorithm, issuer, validity, subject, the key (RFC 5280
 * 4.1). */
static bool find_key(struct span der, struct span *key)
{
	struct span whole, certificate, tbs, inside;

	if (!der_next(&der, &whole, &certificate) || !der_next(&certificate, &whole, &tbs))
		return false;
	for (unsigned i = 0; i < 5; i++) {
		if (!der_next(&tbs, &whole, &inside))
			return false;
		if (i == 0 && whole.p[0] == 0xa0 && !der_next(&tbs, &whole, &inside))
			return false;
	}
	return der_next(&tbs, key, &inside) && key->p[0] == 0x30;
}

/* ---- the rest ---- */

static uint8_t kind_of(const DecodedCert *d)
{
	if (d->keyOID == RSAk)
		return HELLO_RSA;
	if (d->keyOID != ECDSAk)
		return 0;
	switch (d->pkCurveOID) {
	case ECC_SECP256R1_OID:
		return HELLO_P256;
	case ECC_SECP384R1_OID:
		return HELLO_P384;
	case ECC_SECP521R1_OID:
		return HELLO_P521;
	default:
		return 0;
	}
}

static int64_t expiry_of(const DecodedCert *d)
{
	const byte *date;
	byte format;
	int len;
	struct tm tm;

	if (d->afterDate == NULL ||
		wc_GetDateInfo(d->afterDate, d->afterDateLen, &date, &format, &len) != 0)
		return 0;
	memset(&tm, 0, sizeof(tm));
	if (wc_GetDateAsCalendarTime(date, len, format, &tm) != 0)
		return 0;
	return (int64_t)timegm(&tm);
}

/* One with a NUL in it would be read as a shorter one, somebody else's: then there is none. */
static bool keep_subject(void *arg, struct span name)
{
	struct cert *c = arg;
	size_t n = MIN_OF(name.n, (size_t)TLS_SUBJECT_MAX);

	if (memchr(name.p, '\0', n))
		return false;
	memcpy(c->subject, name.p, n);
	c->subject[n] = '\0';
	return false;
}

bool cert_read(struct span der, struct cert *out)
{
	DecodedCert d;
	struct span key;
	bool hashed;

	memset(out, 0, sizeof(*out));
	if (!decode(der, &d))
		return false;
	if (d.subjectCN != NULL && d.subjectCNLen > 0)
		(void)keep_subject(out, span_of(d.subjectCN, (size_t)d.subjectCNLen));
	else
		names_of(&d, keep_subject, out);
	out->kind = kind_of(&d);
	out->expires_s = expiry_of(&d);
	out->self_signed = d.selfSigned;
	out->signs = d.isCA && (!d.extKeyUsageSet || (d.extKeyUsage & KEYUSE_KEY_CERT_SIGN) != 0);
	out->path_max = d.pathLengthSet ? d.pathLength : 255;
	wc_FreeDecodedCert(&d);
	hashed = wc_Sha256Hash(der.p, (word32)der.n, out->sha256) == 0;
	return hashed && find_key(der, &key) &&
	       wc_Sha256Hash(key.p, (word32)key.n, out->spki_sha256) == 0;
}
