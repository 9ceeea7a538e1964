/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who a client says he is (engine/smtp/auth.h): every mechanism, what is no response of it, base64
 * that is none, and that nothing of a secret stays behind on the stack.
 */
#include <criterion/criterion.h>

#include "engine/smtp/auth.h"
#include "engine/smtp/line.h"

#define TEXT_MAX SMTP_AUTH_BYTES_MAX

/* A string literal with its inner NULs, without its last one. */
#define OCTETS(s)                                      \
	{                                              \
		(const uint8_t *)("" s), sizeof(s) - 1 \
	}

static struct span base64(struct span in)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	static uint8_t out[TEXT_MAX + 8];
	size_t n = 0;

	ASSERT(in.n <= TEXT_MAX / 4 * 3 + 3);
	for (size_t i = 0; i < in.n; i += 3) {
		size_t left = MIN_OF(in.n - i, 3u);
		unsigned bits = in.p[i] << 16u;

		if (left > 1)
			bits |= in.p[i + 1] << 8u;
		if (left > 2)
			bits |= in.p[i + 2];
		for (size_t k = 0; k < 4; k++)
			out[n++] = k > left ? '=' : (uint8_t)digits[bits >> (18 - 6 * k) & 63];
	}
	return span_of(out, n);
}

/* ---- what decoding leaves behind ----
 * auth.o finds these instead of libc's, by whatever name it calls them. */

static struct {
	unsigned calls;
	size_t n;
	uint8_t seen[TEXT_MAX];
} wiped;

void wipe_spy(void *p, size_t n) __asm__("explicit_bzero");
void wipe_spy(void *p, size_t n)
{
	wiped.calls++;
	wiped.n = n;
	ASSERT(n <= sizeof(wiped.seen));
	memcpy(wiped.seen, p, n);
	memset(p, 0, n);
}

void wipe_spy_chk(void *p, size_t n, size_t room) __asm__("__explicit_bzero_chk");
void wipe_spy_chk(void *p, size_t n, size_t room)
{
	ASSERT(n <= room);
	wipe_spy(p, n);
}

static size_t identity(const char *mechanism, uint32_t turn, struct span line, uint8_t *out)
{
	size_t n;

	memset(out, '#', SMTP_AUTH_IDENTITY_MAX + 1);
	n = smtp_auth_identity(span_str(mechanism), turn, line, out);
	cr_assert(n <= SMTP_AUTH_IDENTITY_MAX && out[n] == '#');
	return n;
}

/* ---- mechanisms ---- */

struct example {
	const char *mechanism;
	struct span response; /* before base64 */
	const char *want;
};

static const struct example examples[] = {
	{"PLAIN", OCTETS("\0tim\0tanstaaftanstaaf"), "tim"},
	{"PLAIN", OCTETS("Ursel\0Kurt\0xipj3plmq"), "Kurt"},
	{"plain", OCTETS("\0t\0"), "t"},
	{"PLAIN", OCTETS("\0J\303\274rgen@example.org\0x"), "J\303\274rgen@example.org"},
	{"PLAIN", OCTETS("\0tim\0secret\0more"), "tim"},
	{"PLAIN", OCTETS("\0\0secret"), ""},
	{"PLAIN", OCTETS("authz\0\0secret"), ""},
	{"PLAIN", OCTETS("\0secret"), ""},
	{"PLAIN", OCTETS("secret"), ""},
	{"PLAIN", OCTETS("\0a\nb\0secret"), ""},
	{"PLAIN", OCTETS("\0a\177b\0secret"), ""},
	{"LOGIN", OCTETS("user@example.org"), "user@example.org"},
	{"Login", OCTETS("a b"), "a b"},
	{"LOGIN", OCTETS("a\0b"), ""},
	{"CRAM-MD5", OCTETS("tim b913a602c7eda7a495b4e6e7334d3890"), "tim"},
	{"CRAM-MD5", OCTETS("Tim T B913A602C7EDA7A495B4E6E7334D3890"), "Tim T"},
	{"CRAM-MD5", OCTETS("tim b913a602c7eda7a495b4e6e7334d389"), ""},
	{"CRAM-MD5", OCTETS("tim b913a602c7eda7a495b4e6e7334d389g"), ""},
	{"CRAM-MD5", OCTETS("tim=b913a602c7eda7a495b4e6e7334d3890"), ""},
	{"CRAM-MD5", OCTETS(" b913a602c7eda7a495b4e6e7334d3890"), ""},
	{"CRAM-MD5", OCTETS("b913a602c7eda7a495b4e6e7334d3890"), ""},
	{"CRAM-MD5", OCTETS("tim"), ""},
	{"XOAUTH2", OCTETS("user=someuser@example.com\1auth=Bearer ya29.vF9dft4qmTc2\1\1"),
		"someuser@example.com"},
	{"XOAUTH2", OCTETS("user=\1auth=Bearer x\1\1"), ""},
	{"XOAUTH2", OCTETS("user=x"), ""},
	{"XOAUTH2", OCTETS("auth=Bearer x\1user=y\1\1"), ""},
	{"XOAUTH2", OCTETS("use"), ""},
	{"OAUTHBEARER",
		OCTETS("n,a=user@example.com,\1host=server.example.com\1port=587\1"
		       "auth=Bearer vF9dft4qmTc2\1\1"),
		"user@example.com"},
	{"OAUTHBEARER", OCTETS("y,a=a=2Cb=3Dc,\1auth=Bearer x\1\1"), "a,b=c"},
	{"OAUTHBEARER", OCTETS("p=tls-unique,a=u,\1auth=Bearer x\1\1"), "u"},
	{"OAUTHBEARER", OCTETS("n,,\1auth=Bearer x\1\1"), ""},
	{"OAUTHBEARER", OCTETS("n,a=,\1auth=Bearer x\1\1"), ""},
	{"OAUTHBEARER", OCTETS("n,b=u,\1auth=Bearer x\1\1"), ""},
	{"OAUTHBEARER", OCTETS("n,a=u\1auth=Bearer x\1\1"), ""},
	{"OAUTHBEARER", OCTETS("n,a=u,auth=Bearer x\1\1"), ""},
	{"OAUTHBEARER", OCTETS("x,a=u,\1auth=Bearer x\1\1"), ""},
	{"OAUTHBEARER", OCTETS("p=,a=u,\1auth=Bearer x\1\1"), ""},
	{"OAUTHBEARER", OCTETS("n,a=u,"), ""},
	{"OAUTHBEARER", OCTETS("n"), ""},
	{"SCRAM-SHA-1", OCTETS("n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"), "user"},
	{"scram-sha-256-plus", OCTETS("p=tls-exporter,a=other,n=user,r=rOprNGfw"), "user"},
	{"SCRAM-SHA-256", OCTETS("y,,n=a=2cb=3D=3dc,r=x,m=y"), "a,b==c"},
	{"SCRAM-SHA-1", OCTETS("n,,n=a=2,r=x"), ""},
	{"SCRAM-SHA-1", OCTETS("n,,n=a=,r=x"), ""},
	{"SCRAM-SHA-1", OCTETS("n,,n=a=2Fb,r=x"), ""},
	{"SCRAM-SHA-1", OCTETS("n,,n=,r=x"), ""},
	{"SCRAM-SHA-1", OCTETS("n,,n=user"), ""},
	{"SCRAM-SHA-1", OCTETS("n,,m=x,n=user,r=x"), ""},
	{"SCRAM-SHA-1", OCTETS("n,n=user,r=x"), ""},
	{"SCRAM-SHA-1", OCTETS("n=user,r=x"), ""},
	{"EXTERNAL", OCTETS("fred@example.com"), "fred@example.com"},
	/* nobody knows what they say */
	{"GSSAPI", OCTETS("user"), ""},
	{"NTLM", OCTETS("user"), ""},
	{"PLAINX", OCTETS("\0tim\0x"), ""},
	{"PLAI", OCTETS("\0tim\0x"), ""},
	{"SCRAM", OCTETS("n,,n=user,r=x"), ""},
	{"", OCTETS("user"), ""},
};

Test(auth, mechanisms)
{
	uint8_t out[SMTP_AUTH_IDENTITY_MAX + 1];

	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		const struct example *x = &examples[i];
		struct span line = base64(x->response);
		size_t n = identity(x->mechanism, 0, line, out);

		cr_expect(span_eq(span_of(out, n), span_str(x->want)), "%zu %s: \"%.*s\"", i,
			x->mechanism, (int)n, out);
		/* The password of LOGIN is a second response, and so are proofs. */
		cr_expect_eq(identity(x->mechanism, 1, line, out), 0, "%zu", i);
	}
}

/* Each is a whole response cut anywhere: no read behind it, and never a longer identity. */
Test(auth, every_cut)
{
	uint8_t out[SMTP_AUTH_IDENTITY_MAX + 1];

	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		const struct example *x = &examples[i];

		for (size_t cut = 0; cut < x->response.n; cut++) {
			struct span line = base64(span_of(x->response.p, cut));
			uint8_t *exact = malloc(line.n ? line.n : 1);
			size_t n;

			ASSERT(exact);
			memcpy(exact, line.p, line.n);
			n = identity(x->mechanism, 0, span_of(exact, line.n), out);
			cr_expect(n <= cut);
			free(exact);
		}
	}
}

Test(auth, lengths)
{
	static uint8_t name[TEXT_MAX];
	uint8_t out[SMTP_AUTH_IDENTITY_MAX + 1];
	size_t most = SMTP_AUTH_BYTES_MAX / 4 * 3;

	for (size_t i = 0; i < sizeof(name); i++)
		name[i] = (uint8_t)('!' + i % 90);
	for (size_t n = 0; n <= 300; n++) {
		size_t got = identity("EXTERNAL", 0, base64(span_of(name, n)), out);

		cr_expect_eq(got, MIN_OF(n, (size_t)SMTP_AUTH_IDENTITY_MAX));
		cr_expect(memcmp(out, name, got) == 0, "%zu", n);
	}
	cr_expect_eq(identity("LOGIN", 0, base64(span_of(name, most)), out), 255);
	cr_expect_eq(identity("LOGIN", 0, base64(span_of(name, most + 1)), out), 0);
}

/* ---- base64 ---- */

Test(auth, base64_that_is_none)
{
	static const char *const lines[] = {"", "=", "*", "==", "===", "====", "A", "AA", "AAA",
		"A===", "AA=A", "=AAA", "dXNlcg",
		"dXNlcg=", "dXNlcg==dXNlcg==", "dXNl cg==", "dXNlc===", "dXNlcg==\r\n", "dXN-",
		"dXN_", "dXNlcg==="};
	uint8_t out[SMTP_AUTH_IDENTITY_MAX + 1];

	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		cr_expect_eq(identity("LOGIN", 0, span_str(lines[i]), out), 0, "%s", lines[i]);
	cr_expect_eq(identity("LOGIN", 0, SPAN_NONE, out), 0);
	/* The same octets whatever the last two bits. */
	cr_expect_eq(identity("LOGIN", 0, SPAN_LIT("dXNlcg=="), out), 4);
	cr_expect_eq(identity("LOGIN", 0, SPAN_LIT("dXNlch=="), out), 4);
	cr_expect(memcmp(out, "user", 4) == 0);
}

/* At every place of a group, each octet that is no digit makes it none. */
Test(auth, base64_digits)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint8_t out[SMTP_AUTH_IDENTITY_MAX + 1], raw[6];

	for (unsigned c = 0; c < 256; c++) {
		const char *digit = c ? strchr(digits, (int)c) : NULL;

		for (size_t place = 0; place < 8; place++) {
			uint8_t line[8];
			size_t n;

			memcpy(line, "YWFhYWFh", 8); /* "aaaaaa" */
			line[place] = (uint8_t)c;
			n = identity("EXTERNAL", 0, span_of(line, 8), out);
			if (!digit && !(c == '=' && place == 7)) {
				cr_expect_eq(n, 0, "%u %zu", c, place);
				continue;
			}
			for (size_t i = 0; i < n; i++)
				raw[i % 6] = out[i];
			/* What is told encodes to what was sent; controls are not told. */
			if (n == 6)
				cr_expect(span_eq(base64(span_of(raw, 6)), span_of(line, 8)));
			else
				cr_expect(n == (c == '=' ? 5 : 0), "%u %zu: %zu", c, place, n);
		}
	}
}

/* ---- secrets ---- */

Test(auth, nothing_stays)
{
	static const char *const lines[] = {
		"AHRpbQB0YW5zdGFhZnRhbnN0YWFm",	    /* \0tim\0tanstaaftanstaaf */
		"AHRpbQB0YW5zdGFhZnRhbnN0YWF*",	    /* no base64, which its last octet tells */
		"AAB0YW5zdGFhZnRhbnN0YWFmeHh4eHg=", /* nothing to tell */
	};
	uint8_t out[SMTP_AUTH_IDENTITY_MAX + 1];

	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		memset(&wiped, 0, sizeof(wiped));
		identity("PLAIN", 0, span_str(lines[i]), out);
		cr_expect_eq(wiped.calls, 1);
		/* The spy saw the secret just before it was wiped: so it was where it was looked
		 * for. */
		cr_expect(memmem(wiped.seen, wiped.n, "tanstaaftanstaa", 15), "%zu", i);
		cr_expect_geq(wiped.n, strlen(lines[i]) / 4 * 3);
		cr_expect(!memmem(out, sizeof(out), "tanstaaf", 8));
	}
}
