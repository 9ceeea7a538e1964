/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who a client says he is: see auth.h. One reader per mechanism, each over the decoded response,
 * which lies on the stack and is wiped there. A response that does not read tells nothing.
 *
 * Base64 is decoded here: no library that is linked brings a decoder that leaves no copy behind.
 */
#include "engine/smtp/auth.h"

#include "engine/smtp/line.h"
#include "engine/smtp/octets.h"

#define KVSEP '\x01' /* RFC 7628 3.1 */

/* ---- base64 (RFC 4648 4) ---- */

#define NO_DIGIT 64

static unsigned base64_digit(uint8_t c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26u;
	if (c >= '0' && c <= '9')
		return c - '0' + 52u;
	return c == '+' ? 62 : c == '/' ? 63 : NO_DIGIT;
}

/* Decodes into out[0..in.n / 4 * 3). */
static bool base64_decode(struct span in, uint8_t *out, size_t *n)
{
	size_t digits = in.n;
	uint32_t bits = 0;

	*n = 0;
	if (in.n % 4 != 0)
		return false;
	for (int pad = 0; pad < 2 && digits > 0 && in.p[digits - 1] == '='; pad++)
		digits--;
	for (size_t i = 0; i < digits; i++) {
		unsigned digit = base64_digit(in.p[i]);

		if (digit == NO_DIGIT)
			return false;
		bits = bits << 6 | digit;
		if (i % 4 != 0)
			out[(*n)++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
	}
	return true;
}

/* ---- mechanisms: the identity in the decoded response, or an empty span ----
 * What they return lies in the response; it may be rewritten in place. */

struct response {
	uint8_t *p;
	size_t n;
};

static struct span all_of(const struct response *r)
{
	return span_of(r->p, r->n);
}

/* s up to the first `c`; *rest behind it. Empty when there is none. */
static struct span before(struct span s, uint8_t c, struct span *rest)
{
	struct span word = span_split(s, c, rest);

	return rest->p ? word : SPAN_NONE;
}

static struct span without_prefix(struct span s, struct span prefix)
{
	if (s.n < prefix.n || !span_eq(span_of(s.p, prefix.n), prefix))
		return SPAN_NONE;
	return span_drop(s, prefix.n);
}

/* [authzid] NUL authcid NUL passwd */
static struct span plain(const struct response *r)
{
	struct span rest;

	span_split(all_of(r), 0, &rest);
	return before(rest, 0, &rest);
}

static struct span whole(const struct response *r)
{
	return all_of(r);
}

/* user SP digest; a user name may have spaces. */
static struct span cram_md5(const struct response *r)
{
	enum { DIGEST_BYTES = 32 };
	struct span digest;

	if (r->n < 1 + DIGEST_BYTES)
		return SPAN_NONE;
	digest = span_of(r->p + r->n - DIGEST_BYTES, DIGEST_BYTES);
	if (!span_all(digest, OCTET_HEX) || digest.p[-1] != ' ')
		return SPAN_NONE;
	return span_of(r->p, r->n - DIGEST_BYTES - 1);
}

/* "user=" user KVSEP "auth=Bearer " token KVSEP KVSEP */
static struct span xoauth2(const struct response *r)
{
	struct span rest;

	return before(without_prefix(all_of(r), SPAN_LIT("user=")), KVSEP, &rest);
}

/* saslname (RFC 5801 4): "=2C" is a comma, "=3D" an equals sign, and there is no other '='. */
static struct span unescape(const struct response *r, struct span name)
{
	uint8_t *from = r->p + (name.p - r->p), *to = from;

	for (size_t i = 0; i < name.n; i++) {
		uint8_t c = name.p[i];

		if (c == '=') {
			struct span code = span_of(name.p + i + 1, MIN_OF(name.n - i - 1, 2u));

			if (span_ieq(code, SPAN_LIT("2C")))
				c = ',';
			else if (!span_ieq(code, SPAN_LIT("3D")))
				return SPAN_NONE;
			i += 2;
		}
		*to++ = c;
	}
	return span_of(from, (size_t)(to - from));
}

/* gs2-header (RFC 5801 4): ("p=" name / "n" / "y") "," ["a=" authzid] ",". Sets *rest behind it;
 * false: it is none. */
static bool gs2_header(struct span s, struct span *authzid, struct span *rest)
{
	struct span flag = before(s, ',', rest), a = SPAN_NONE;

	if (!span_eq(flag, SPAN_LIT("n")) && !span_eq(flag, SPAN_LIT("y")) &&
		without_prefix(flag, SPAN_LIT("p=")).n == 0)
		return false;
	a = span_split(*rest, ',', rest);
	*authzid = without_prefix(a, SPAN_LIT("a="));
	return rest->p && (a.n == 0 || authzid->n > 0);
}

static struct span oauthbearer(const struct response *r)
{
	struct span authzid, rest;

	if (!gs2_header(all_of(r), &authzid, &rest) || rest.n == 0 || rest.p[0] != KVSEP)
		return SPAN_NONE;
	return unescape(r, authzid);
}

/* Behind the gs2-header "n=" saslname "," "r=" nonce ...; a mandatory extension ("m=") before it is
 * one that no server knows. */
static struct span scram(const struct response *r)
{
	struct span authzid, rest;

	if (!gs2_header(all_of(r), &authzid, &rest))
		return SPAN_NONE;
	return unescape(r, before(without_prefix(rest, SPAN_LIT("n=")), ',', &rest));
}

struct mechanism_row {
	const char *name; /* ends with '-': all that begin so */
	struct span (*identity)(const struct response *r);
};

static const struct mechanism_row mechanisms[] = {
	{"PLAIN", plain},
	{"LOGIN", whole},
	{"CRAM-MD5", cram_md5},
	{"XOAUTH2", xoauth2},
	{"OAUTHBEARER", oauthbearer},
	{"SCRAM-", scram},
	{"EXTERNAL", whole},
};

static const struct mechanism_row *find(struct span mechanism)
{
	for (size_t i = 0; i < ARRAY_LEN(mechanisms); i++) {
		struct span name = span_str(mechanisms[i].name), head = mechanism;

		if (name.p[name.n - 1] == '-')
			head.n = MIN_OF(head.n, name.n);
		if (span_ieq(head, name))
			return &mechanisms[i];
	}
	return NULL;
}

static bool has_control(struct span s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] < ' ' || s.p[i] == 127)
			return true;
	return false;
}

size_t smtp_auth_identity(struct span mechanism, uint32_t turn, struct span line, uint8_t *out)
{
	uint8_t decoded[SMTP_AUTH_BYTES_MAX / 4 * 3];
	struct response r = {.p = decoded};
	const struct mechanism_row *row = find(mechanism);
	struct span who = SPAN_NONE;

	if (turn > 0 || !row || line.n > SMTP_AUTH_BYTES_MAX)
		return 0;
	if (base64_decode(line, decoded, &r.n))
		who = row->identity(&r);
	who.n = has_control(who) ? 0 : MIN_OF(who.n, (size_t)SMTP_AUTH_IDENTITY_MAX);
	if (who.n > 0)
		memcpy(out, who.p, who.n);
	explicit_bzero(decoded, line.n / 4 * 3);
	return who.n;
}
