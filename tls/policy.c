/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Policies: what the handshakes with an upstream need and demand of its certificate.
 *
 * Who verifies depends on the demand. TLS_DEMAND_VERIFY is wolfSSL's own check, which ends the
 * handshake. Where the demand is another one (nothing, or pins) the handshake must go on behind a
 * chain that is not good, and then wolfSSL may not verify at all: what a callback lets pass it
 * takes among its trusted CAs, if it is one, and believes it from then on. So the chain is walked
 * here, against the same CAs, with what it brings along kept in a manager of its own and forgotten
 * behind it.
 */
#include "tls/tls_int.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- making ---- */

/* Where systems keep all their CAs in one file: 2 ms, and the directory of them 10. */
static const char *const bundles[] = {
	"/etc/ssl/certs/ca-certificates.crt", /* Debian, Alpine, Arch */
	"/etc/pki/tls/certs/ca-bundle.crt",   /* Fedora, RHEL */
	"/etc/ssl/ca-bundle.pem",	      /* SUSE */
	"/etc/ssl/cert.pem",
};

static bool load_system(WOLFSSL_CTX *ctx)
{
	for (size_t i = 0; i < ARRAY_LEN(bundles); i++)
		if (access(bundles[i], R_OK) == 0 &&
			wolfSSL_CTX_load_verify_locations(ctx, bundles[i], NULL) == WOLFSSL_SUCCESS)
			return true;
	return wolfSSL_CTX_load_verify_locations_ex(ctx, NULL, "/etc/ssl/certs",
		       WOLFSSL_LOAD_FLAG_IGNORE_ERR) == WOLFSSL_SUCCESS;
}

static bool load_cas(WOLFSSL_CTX *ctx, const struct tls_policy_conf *c, struct tls_error *e)
{
	struct stat st;
	bool dir;
	int ret;

	if (c->ca == NULL) {
		/* Without a demand it only cannot be noted. */
		if (load_system(ctx) || c->demand != TLS_DEMAND_VERIFY)
			return true;
		return ctx_error(e, NULL, "the system has no CAs: install ca-certificates");
	}
	if (stat(c->ca, &st) != 0)
		return ctx_error(e, c->ca, "cannot be read: %s", strerror(errno));
	dir = S_ISDIR(st.st_mode);
	ret = wolfSSL_CTX_load_verify_locations_ex(ctx, dir ? NULL : c->ca, dir ? c->ca : NULL,
		dir ? WOLFSSL_LOAD_FLAG_IGNORE_ERR : WOLFSSL_LOAD_FLAG_NONE);
	if (ret == WOLFSSL_SUCCESS)
		return true;
	return ctx_error(e, c->ca, "has no CA that could be loaded (%s)",
		wolfSSL_ERR_reason_error_string((unsigned long)ret));
}

static bool fill(struct tls_policy *p, const struct tls_policy_conf *c, struct tls_error *e)
{
	const char *ciphers = c->ciphers;

	/* A server may take the suites of TLS 1.3 at their word. */
	if (p->only_1_2 && !ciphers)
		ciphers = strstr(TLS_CIPHERS, "ECDHE-");
	p->ctx = ctx_new(false, c->min, ciphers, c->groups, e);
	if (p->ctx == NULL)
		return false;
	p->pins = calloc(MAX_OF(c->pin_count, 1u), sizeof(*p->pins));
	if (p->pins == NULL)
		return ctx_error(e, NULL, "no memory");
	if (c->pin_count > 0)
		memcpy(p->pins, c->pins, c->pin_count * sizeof(*p->pins));
	p->pin_count = c->pin_count;
	if (!load_cas(p->ctx, c, e) ||
		(c->own.chain != NULL && !ctx_use_pair(p->ctx, &c->own, NULL, e)))
		return false;
	/* Tickets of 1.2 are not asked for: a server may refuse one and shake hands in full, which
	 * wolfSSL as its client takes for an attack (5.7.2, OUT_OF_ORDER_E). */

	/* Last: without verification CAs would be loaded without a look at their dates. */
	wolfSSL_CTX_set_verify(p->ctx,
		c->demand == TLS_DEMAND_VERIFY ? WOLFSSL_VERIFY_PEER : WOLFSSL_VERIFY_NONE,
		verify_peer);
	return true;
}

struct tls_policy *tls_policy_new(
	const struct tls_policy_conf *c, struct tls_keylog *log, struct tls_error *e)
{
	static atomic_uint_fast64_t serials;
	struct tls_policy *p = calloc(1, sizeof(*p));

	if (p == NULL) {
		(void)ctx_error(e, NULL, "no memory");
		return NULL;
	}
	atomic_init(&p->refs, 1);
	p->serial = atomic_fetch_add(&serials, 1) + 1;
	p->log = log;
	p->demand = c->demand;
	p->only_1_2 = c->no_later && c->min == TLS_1_2;
	if (fill(p, c, e))
		return p;
	tls_policy_unref(p);
	return NULL;
}

struct tls_policy *tls_policy_ref(struct tls_policy *p)
{
	atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
	return p;
}

void tls_policy_unref(struct tls_policy *p)
{
	if (p == NULL || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) > 1)
		return;
	wolfSSL_CTX_free(p->ctx);
	free(p->pins);
	free(p);
}

/* ---- the chain ---- */

/* 0, or wolfSSL's error: by the CAs that are trusted, or those that the chain has led to. */
static int check_one(
	WOLFSSL_CERT_MANAGER *trusted, WOLFSSL_CERT_MANAGER *led_to, const WOLFSSL_BUFFER_INFO *c)
{
	int ret = wolfSSL_CertManagerVerifyBuffer(
		trusted, c->buffer, (long)c->length, WOLFSSL_FILETYPE_ASN1);

	if ((ret == ASN_NO_SIGNER_E || ret == ASN_SELF_SIGNED_E) && led_to != NULL) {
		int other = wolfSSL_CertManagerVerifyBuffer(
			led_to, c->buffer, (long)c->length, WOLFSSL_FILETYPE_ASN1);

		if (other != ASN_NO_SIGNER_E && other != ASN_SELF_SIGNED_E)
			ret = other;
	}
	return ret == WOLFSSL_SUCCESS ? 0 : ret;
}

/* It may stand `below` other CAs and the leaf. */
static bool may_sign(const WOLFSSL_BUFFER_INFO *c, int below)
{
	struct cert read;

	return cert_read(span_of(c->buffer, c->length), &read) && read.signs &&
	       below <= read.path_max;
}

static int check_chain(WOLFSSL_CERT_MANAGER *trusted, const WOLFSSL_BUFFER_INFO *certs, int count)
{
	WOLFSSL_CERT_MANAGER *led_to = wolfSSL_CertManagerNew();
	int ret;

	if (led_to == NULL)
		return MEMORY_E;
	/* A certificate that leads nowhere is in no way of the others (RFC 8446 4.4.2). */
	for (int i = count - 1; i > 0; i--)
		if (may_sign(&certs[i], i - 1) && check_one(trusted, led_to, &certs[i]) == 0)
			(void)wolfSSL_CertManagerLoadCABuffer(led_to, certs[i].buffer,
				(long)certs[i].length, WOLFSSL_FILETYPE_ASN1);
	ret = check_one(trusted, led_to, &certs[0]);
	wolfSSL_CertManagerFree(led_to);
	return ret;
}

/* ---- what wolfSSL asks ---- */

static bool is_pinned(const struct tls_policy *p, const struct cert *c)
{
	for (uint32_t i = 0; i < p->pin_count; i++)
		if (memcmp(p->pins[i], c->sha256, 32) == 0 ||
			memcmp(p->pins[i], c->spki_sha256, 32) == 0)
			return true;
	return false;
}

/* Why the certificate is no proof of who the peer is, or TLS_WHY_NONE. */
static enum tls_why doubt_about(
	const struct tls *t, const WOLFSSL_X509_STORE_CTX *st, const struct cert *c)
{
	const WOLFSSL_BUFFER_INFO *leaf = &st->certs[0];
	enum tls_why why;
	int err = st->error;

	if (err == 0 && !t->server && t->policy->demand != TLS_DEMAND_VERIFY)
		err = check_chain(
			wolfSSL_CTX_GetCertManager(t->policy->ctx), st->certs, st->totalCerts);
	if (err != 0) {
		why = why_of_error(err);
		if (why == TLS_WHY_UNKNOWN_CA && c->self_signed)
			return TLS_WHY_SELF_SIGNED;
		return why == TLS_WHY_PROTOCOL ? TLS_WHY_BAD_CERTIFICATE : why;
	}
	if (!t->server && t->name[0] != '\0' &&
		!cert_covers(span_of(leaf->buffer, leaf->length), span_str(t->name)))
		return TLS_WHY_NAME;
	return TLS_WHY_NONE;
}

/* What is wrong enough for the handshake to end. */
static enum tls_why verdict_on(const struct tls *t, const struct cert *c)
{
	if (t->server)
		return t->site->client_cert == TLS_CLIENT_REQUIRED ? t->peer.doubt : TLS_WHY_NONE;
	switch (t->policy->demand) {
	case TLS_DEMAND_NONE:
		return TLS_WHY_NONE;
	case TLS_DEMAND_VERIFY:
		return t->peer.doubt;
	case TLS_DEMAND_PIN:
		return is_pinned(t->policy, c) ? TLS_WHY_NONE : TLS_WHY_PIN;
	}
	return TLS_WHY_PIN;
}

/* Once for the leaf, and before that for each of the others that is not good, where wolfSSL
 * verifies. Those must never be let pass: see above. */
int verify_peer(int ok, WOLFSSL_X509_STORE_CTX *st)
{
	struct tls *t = st->userCtx;
	struct cert c;

	if (st->totalCerts == 0)
		return ok; /* it showed none */
	if (st->error_depth > 0) {
		t->verdict = why_of_error(st->error);
		return 0;
	}
	memset(&t->peer, 0, sizeof(t->peer));
	if (!cert_read(span_of(st->certs[0].buffer, st->certs[0].length), &c)) {
		t->verdict = TLS_WHY_BAD_CERTIFICATE;
		return 0;
	}
	t->peer.certified = true;
	memcpy(t->peer.subject, c.subject, sizeof(t->peer.subject));
	memcpy(t->peer.sha256, c.sha256, sizeof(t->peer.sha256));
	t->peer.doubt = doubt_about(t, st, &c);
	t->peer.verified = t->peer.doubt == TLS_WHY_NONE;
	t->verdict = verdict_on(t, &c);
	t->accepted = t->verdict == TLS_WHY_NONE;
	return t->accepted;
}
