/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sites: what the handshakes of a listener need. wolfSSL keeps one certificate in a context, so
 * there is a context for each pair, and the choice is made before wolfSSL sees anything, by what
 * the ClientHello says (hello.h). Made and freed away from the rings; between that read only.
 */
#include "tls/tls_int.h"

#include <wolfssl/wolfcrypt/asn_public.h>

/* ---- making ---- */

static void free_pair(struct site_pair *p)
{
	for (uint32_t i = 0; i < p->name_count; i++)
		free(p->names[i]);
	free(p->names);
	free(p->chain);
	wolfSSL_CTX_free(p->ctx);
}

static bool keep_name(void *arg, struct span name)
{
	struct site_pair *p = arg;
	char **more = realloc(p->names, (p->name_count + 1) * sizeof(*more));

	if (more == NULL)
		return false;
	p->names = more;
	p->names[p->name_count] = strndup((const char *)name.p, name.n);
	if (p->names[p->name_count] == NULL)
		return false;
	p->name_count++;
	return true;
}

static bool read_leaf(
	struct site_pair *p, const char *file, const DerBuffer *leaf, struct tls_error *e)
{
	struct span der = span_of(leaf->buffer, leaf->length);
	struct cert c;

	if (!cert_read(der, &c))
		return ctx_error(e, file, "its certificate cannot be read");
	if (c.kind == 0)
		return ctx_error(
			e, file, "its key is neither RSA nor ECDSA on P-256, P-384 or P-521");
	p->kind = c.kind;
	p->expires_s = c.expires_s;
	cert_names(der, keep_name, p);
	return true;
}

static bool ask_clients(WOLFSSL_CTX *ctx, const struct tls_site_conf *c, struct tls_error *e)
{
	int mode = WOLFSSL_VERIFY_PEER, ret;

	if (c->client_cert == TLS_CLIENT_NONE) {
		wolfSSL_CTX_set_verify(ctx, WOLFSSL_VERIFY_NONE, NULL);
		return true;
	}
	ASSERT(c->client_ca != NULL);
	if (c->client_cert == TLS_CLIENT_REQUIRED)
		mode |= WOLFSSL_VERIFY_FAIL_IF_NO_PEER_CERT;
	wolfSSL_CTX_set_verify(ctx, mode, verify_peer);
	ret = wolfSSL_CTX_load_verify_locations(ctx, c->client_ca, NULL);
	if (ret == WOLFSSL_SUCCESS)
		return true;
	return ctx_error(e, c->client_ca, "has no CA that could be loaded (%s)",
		wolfSSL_ERR_reason_error_string((unsigned long)ret));
}

static bool make_pair(struct site_pair *p, const struct tls_pair *files,
	const struct tls_site_conf *c, struct tls_keys *keys, struct tls_error *e)
{
	DerBuffer *leaf = NULL;
	bool ok;

	p->ctx = ctx_new(true, c->min, c->ciphers, c->groups, e);
	if (p->ctx == NULL)
		return false;
	ok = ctx_use_pair(p->ctx, files, &leaf, e) && read_leaf(p, files->chain, leaf, e);
	wc_FreeDer(&leaf);
	if (!ok)
		return false;
	p->chain = strdup(files->chain);
	if (p->chain == NULL)
		return ctx_error(e, NULL, "no memory");
	/* A resumed session would not show its certificate again. */
	keys_attach(c->client_cert == TLS_CLIENT_NONE ? keys : NULL, p->ctx);
	return ask_clients(p->ctx, c, e);
}

struct tls_site *tls_site_new(const struct tls_site_conf *c, struct tls_keys *keys,
	struct tls_keylog *log, struct tls_error *e)
{
	struct tls_site *s = calloc(1, sizeof(*s));

	ASSERT(c->pair_count > 0);
	if (s != NULL)
		s->pairs = calloc(c->pair_count, sizeof(*s->pairs));
	if (s == NULL || s->pairs == NULL) {
		free(s);
		(void)ctx_error(e, NULL, "no memory");
		return NULL;
	}
	atomic_init(&s->refs, 1);
	s->log = log;
	s->client_cert = c->client_cert;
	while (s->pair_count < c->pair_count) {
		uint32_t i = s->pair_count++;

		if (!make_pair(&s->pairs[i], &c->pairs[i], c, keys, e)) {
			tls_site_unref(s);
			return NULL;
		}
	}
	return s;
}

struct tls_site *tls_site_ref(struct tls_site *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void tls_site_unref(struct tls_site *s)
{
	if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) > 1)
		return;
	for (uint32_t i = 0; i < s->pair_count; i++)
		free_pair(&s->pairs[i]);
	free(s->pairs);
	free(s);
}

int64_t tls_site_expires_s(const struct tls_site *s, const char **chain)
{
	const struct site_pair *first = &s->pairs[0];

	for (uint32_t i = 1; i < s->pair_count; i++)
		if (s->pairs[i].expires_s < first->expires_s)
			first = &s->pairs[i];
	*chain = first->chain;
	return first->expires_s;
}

/* ---- choosing ---- */

static bool is_for(const struct site_pair *p, struct span host)
{
	for (uint32_t i = 0; i < p->name_count; i++)
		if (name_covers(span_str(p->names[i]), host))
			return true;
	return false;
}

/* The first that the client can check, of an ECDSA key if `ecdsa`, for its host if there is one. */
static const struct site_pair *first_of(
	const struct tls_site *s, const struct hello *h, bool ecdsa, bool named)
{
	for (uint32_t i = 0; i < s->pair_count; i++) {
		const struct site_pair *p = &s->pairs[i];

		if ((p->kind & h->kinds) == 0 || (ecdsa && p->kind == HELLO_RSA))
			continue;
		if (!named || is_for(p, h->sni))
			return p;
	}
	return NULL;
}

const struct site_pair *site_choose(const struct tls_site *s, const struct hello *h)
{
	const struct site_pair *p = NULL;

	if (h->sni.n > 0)
		p = first_of(s, h, true, true);
	if (p == NULL && h->sni.n > 0)
		p = first_of(s, h, false, true);
	if (p == NULL)
		p = first_of(s, h, false, false);
	/* It can use none: wolfSSL says so to it. */
	return p != NULL ? p : &s->pairs[0];
}
