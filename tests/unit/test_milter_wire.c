/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The milter protocol's packets (engine/hook/milter/milter_wire.h): what is written octet by octet and
 * into every size of buffer, what is read in every pair of pieces, every reply and every way to get
 * it wrong, and what is agreed on with the filters that were measured.
 */
#include <criterion/criterion.h>

#include "engine/hook/milter/milter_wire.h"
#include "ring/listen.h"

#include <netinet/in.h>
#include <sys/un.h>

/* A string literal with its inner NULs, without its last one. */
#define OCTETS(s)                                      \
	{                                              \
		(const uint8_t *)("" s), sizeof(s) - 1 \
	}

/* ---- names and numbers ---- */

Test(milter, names)
{
	unsigned commands = 0, replies = 0;

	for (unsigned c = 0; c < 256; c++) {
		commands += milter_command_name((uint8_t)c) != NULL;
		replies += milter_reply_name((uint8_t)c) != NULL;
	}
	cr_expect(commands == 15 && replies == 20, "%u %u", commands, replies);
	cr_expect_str_eq(milter_command_name('T'), "data");
	cr_expect_str_eq(milter_command_name('K'), "quit-continue");
	cr_expect_str_eq(milter_reply_name('y'), "reply-code");
	cr_expect(!milter_command_name('y') && !milter_reply_name('l'));
	cr_expect_str_eq(milter_action_name(1), "add-headers");
	cr_expect_str_eq(milter_action_name(0x120), "quarantine");
	cr_expect_str_eq(milter_action_name(0x200), "unknown");
	cr_expect_str_eq(milter_action_name(0), "unknown");
	cr_expect_str_eq(milter_protocol_name(0x100000), "leading-space");
	cr_expect_str_eq(milter_protocol_name(0x200000), "unknown");
	for (int r = 0; r < MILTER_RES_COUNT; r++)
		cr_expect(milter_res_text((enum milter_res)r)[0] != 0);
}

/* mfdef.h's numbers. */
Test(milter, numbers)
{
	static const uint32_t actions[] = {MILTER_A_ADDHDRS, MILTER_A_CHGBODY, MILTER_A_ADDRCPT,
		MILTER_A_DELRCPT, MILTER_A_CHGHDRS, MILTER_A_QUARANTINE, MILTER_A_CHGFROM,
		MILTER_A_ADDRCPT_PAR, MILTER_A_SETSYMLIST};
	static const uint32_t protocol[] = {MILTER_P_NOCONNECT, MILTER_P_NOHELO, MILTER_P_NOMAIL,
		MILTER_P_NORCPT, MILTER_P_NOBODY, MILTER_P_NOHDRS, MILTER_P_NOEOH, MILTER_P_NR_HDR,
		MILTER_P_NOUNKNOWN, MILTER_P_NODATA, MILTER_P_SKIP, MILTER_P_RCPT_REJ,
		MILTER_P_NR_CONN, MILTER_P_NR_HELO, MILTER_P_NR_MAIL, MILTER_P_NR_RCPT,
		MILTER_P_NR_DATA, MILTER_P_NR_UNKN, MILTER_P_NR_EOH, MILTER_P_NR_BODY,
		MILTER_P_HDR_LEADSPC};

	for (size_t i = 0; i < ARRAY_LEN(actions); i++)
		cr_expect(actions[i] == 1u << i, "%zu", i);
	for (size_t i = 0; i < ARRAY_LEN(protocol); i++)
		cr_expect(protocol[i] == 1u << i, "%zu", i);
	cr_expect(ARRAY_LEN(actions) == 9 && ARRAY_LEN(protocol) == 21);
}

/* ---- packets to the filter ---- */

static const struct milter_neg plain = {.version = 6};
static const struct milter_neg spaced = {.version = 6, .protocol = MILTER_P_HDR_LEADSPC};

static struct ring_addr address(const char *text)
{
	struct ring_addr a;

	cr_assert(addr_parse(span_str(text), &a), "%s", text);
	return a;
}

static bool connect_to(struct milter_out *o, const char *text)
{
	struct ring_addr a = address(text);

	return milter_put_connect(o, SPAN_LIT("mx"), &a);
}

static bool put_optneg(struct milter_out *o)
{
	struct milter_offer offer = milter_offer_for(MILTER_HOLD_ALL);

	return milter_put_optneg(o, &offer);
}

static bool put_macros(struct milter_out *o)
{
	static const struct milter_macro macros[] = {
		{OCTETS("i"), OCTETS("4Q")},
		{OCTETS("{mail_addr}"), OCTETS("")},
	};

	return milter_put_macros(o, MILTER_C_MAIL, macros, ARRAY_LEN(macros));
}

static bool put_no_macros(struct milter_out *o)
{
	return milter_put_macros(o, MILTER_C_DATA, NULL, 0);
}

static bool put_connect_4(struct milter_out *o)
{
	return connect_to(o, "192.0.2.1:25");
}

static bool put_connect_6(struct milter_out *o)
{
	return connect_to(o, "[2001:db8::1]:258");
}

static bool put_connect_mapped(struct milter_out *o)
{
	return connect_to(o, "[::ffff:192.0.2.1]:65535");
}

static bool put_connect_unix(struct milter_out *o)
{
	return connect_to(o, "unix:/run/x");
}

static bool put_connect_abstract(struct milter_out *o)
{
	return connect_to(o, "unix:@x");
}

static bool put_connect_nameless(struct milter_out *o)
{
	struct ring_addr a = {.len = offsetof(struct sockaddr_un, sun_path)};

	a.ss.ss_family = AF_UNIX;
	return milter_put_connect(o, SPAN_LIT("mx"), &a);
}

static bool put_connect_nothing(struct milter_out *o)
{
	struct ring_addr a = address("192.0.2.1:25");

	a.len = 0;
	return milter_put_connect(o, SPAN_LIT("mx"), &a);
}

static bool put_connect_text(struct milter_out *o)
{
	return milter_put_connect_text(o, SPAN_LIT("[x]"), MILTER_F_IPV6, 0x102, SPAN_LIT("::1"));
}

static bool put_helo(struct milter_out *o)
{
	return milter_put_helo(o, SPAN_LIT("a.example"));
}

static bool put_mail(struct milter_out *o)
{
	return milter_put_mail(o, SPAN_LIT("a@b"), SPAN_LIT(" SIZE=1  BODY=7BIT\tX "));
}

static bool put_mail_null(struct milter_out *o)
{
	return milter_put_mail(o, SPAN_NONE, SPAN_NONE);
}

static bool put_rcpt(struct milter_out *o)
{
	return milter_put_rcpt(o, SPAN_LIT("\"c d\"@e"), SPAN_LIT("NOTIFY=NEVER"));
}

static bool put_data(struct milter_out *o)
{
	return milter_put(o, MILTER_C_DATA);
}

static bool put_eoh(struct milter_out *o)
{
	return milter_put(o, MILTER_C_EOH);
}

static bool put_eob(struct milter_out *o)
{
	return milter_put(o, MILTER_C_EOB);
}

static bool put_abort(struct milter_out *o)
{
	return milter_put(o, MILTER_C_ABORT);
}

static bool put_quit(struct milter_out *o)
{
	return milter_put(o, MILTER_C_QUIT);
}

static bool put_quit_nc(struct milter_out *o)
{
	return milter_put(o, MILTER_C_QUIT_NC);
}

static bool put_header(struct milter_out *o)
{
	return milter_put_header(o, &plain, SPAN_LIT("To"), SPAN_LIT(" a,\r\n\tb"));
}

static bool put_header_spaced(struct milter_out *o)
{
	return milter_put_header(o, &spaced, SPAN_LIT("To"), SPAN_LIT("  a\r\n b"));
}

static bool put_header_two_spaces(struct milter_out *o)
{
	return milter_put_header(o, &plain, SPAN_LIT("To"), SPAN_LIT("  a"));
}

static bool put_header_tab(struct milter_out *o)
{
	return milter_put_header(o, &plain, SPAN_LIT("To"), SPAN_LIT("\ta"));
}

static bool put_header_folded(struct milter_out *o)
{
	return milter_put_header(o, &plain, SPAN_LIT("To"), SPAN_LIT("\r\n a\n b\rc\r\r\n d\r"));
}

static bool put_header_nul(struct milter_out *o)
{
	return milter_put_header(o, &plain, SPAN_LIT("T\0"), SPAN_LIT("a\0b"));
}

static bool put_header_empty(struct milter_out *o)
{
	return milter_put_header(o, &plain, SPAN_LIT("To"), SPAN_NONE);
}

static bool put_body(struct milter_out *o)
{
	return milter_put_body_head(o, 65535);
}

static bool put_body_1(struct milter_out *o)
{
	return milter_put_body_head(o, 1);
}

static bool put_unknown(struct milter_out *o)
{
	return milter_put_unknown(o, SPAN_LIT("WIZ now"));
}

struct built {
	const char *name;
	bool (*put)(struct milter_out *o);
	struct span want;
};

#define BUILT(f, want)              \
	{                           \
#f, f, OCTETS(want) \
	}

static const struct built built[] = {
	BUILT(put_optneg, "\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xf7\xff"),
	BUILT(put_macros, "\0\0\0\x14"
			  "DMi\0"
			  "4Q\0{mail_addr}\0\0"),
	BUILT(put_no_macros, "\0\0\0\x02"
			     "DT"),
	BUILT(put_connect_4, "\0\0\0\x11"
			     "Cmx\0"
			     "4\0\x19"
			     "192.0.2.1\0"),
	BUILT(put_connect_6, "\0\0\0\x13"
			     "Cmx\0"
			     "6\x01\x02"
			     "2001:db8::1\0"),
	BUILT(put_connect_mapped, "\0\0\0\x11"
				  "Cmx\0"
				  "4\xff\xff"
				  "192.0.2.1\0"),
	BUILT(put_connect_unix, "\0\0\0\x0e"
				"Cmx\0L\0\0/run/x\0"),
	BUILT(put_connect_abstract, "\0\0\0\x0a"
				    "Cmx\0L\0\0?x\0"),
	BUILT(put_connect_nameless, "\0\0\0\x05"
				    "Cmx\0U"),
	BUILT(put_connect_nothing, "\0\0\0\x05"
				   "Cmx\0U"),
	BUILT(put_connect_text, "\0\0\0\x0c"
				"C[x]\0"
				"6\x01\x02::1\0"),
	BUILT(put_helo, "\0\0\0\x0bHa.example\0"),
	BUILT(put_mail, "\0\0\0\x1aM<a@b>\0SIZE=1\0BODY=7BIT\0X\0"),
	BUILT(put_mail_null, "\0\0\0\x04M<>\0"),
	BUILT(put_rcpt, "\0\0\0\x18R<\"c d\"@e>\0NOTIFY=NEVER\0"),
	BUILT(put_data, "\0\0\0\x01T"),
	BUILT(put_eoh, "\0\0\0\x01N"),
	BUILT(put_eob, "\0\0\0\x01"
		       "E"),
	BUILT(put_abort, "\0\0\0\x01"
			 "A"),
	BUILT(put_quit, "\0\0\0\x01Q"),
	BUILT(put_quit_nc, "\0\0\0\x01K"),
	BUILT(put_header, "\0\0\0\x0aLTo\0a,\n\tb\0"),
	BUILT(put_header_spaced, "\0\0\0\x0bLTo\0  a\n b\0"),
	BUILT(put_header_two_spaces, "\0\0\0\x07LTo\0 a\0"),
	BUILT(put_header_tab, "\0\0\0\x07LTo\0\ta\0"),
	BUILT(put_header_folded, "\0\0\0\x12LTo\0\n a\n b\rc\r\n d\r\0"),
	BUILT(put_header_nul, "\0\0\0\x08LT?\0a?b\0"),
	BUILT(put_header_empty, "\0\0\0\x05LTo\0\0"),
	BUILT(put_body, "\0\1\0\0"
			"B"),
	BUILT(put_body_1, "\0\0\0\x02"
			  "B"),
	BUILT(put_unknown, "\0\0\0\x09UWIZ now\0"),
};

Test(milter, written)
{
	for (size_t i = 0; i < ARRAY_LEN(built); i++) {
		uint8_t room[128];
		struct milter_out o = {.p = room, .max = sizeof(room)};
		struct span want = built[i].want;

		cr_expect(built[i].put(&o), "%s", built[i].name);
		cr_expect(span_eq(span_of(room, o.n), want), "%s: %zu octets", built[i].name, o.n);
		cr_expect(o.need == want.n, "%s", built[i].name);
	}
}

/* Every size of buffer, each a block of its own: the sanitizer sees what goes behind its end. */
Test(milter, written_into_every_size)
{
	for (size_t i = 0; i < ARRAY_LEN(built); i++) {
		struct span want = built[i].want;

		for (size_t max = 0; max <= want.n + 2; max++) {
			uint8_t *room = malloc(max ? max : 1);
			struct milter_out o = {.p = room, .max = max};
			bool fits = built[i].put(&o);

			cr_expect(fits == (max >= want.n), "%s %zu", built[i].name, max);
			cr_expect(o.need == want.n && o.n == (fits ? want.n : 0), "%s %zu",
				built[i].name, max);
			if (fits)
				cr_expect(memcmp(room, want.p, want.n) == 0, "%s", built[i].name);
			free(room);
		}
	}
}

/* What stands before a packet stays, whether it fits or not. */
Test(milter, written_behind_others)
{
	for (size_t i = 0; i < ARRAY_LEN(built); i++) {
		struct span want = built[i].want;

		for (size_t max = 5; max <= 5 + want.n; max++) {
			uint8_t *room = malloc(max);
			struct milter_out o = {.p = room, .max = max};

			cr_assert(milter_put(&o, MILTER_C_ABORT));
			cr_expect(built[i].put(&o) == (max == 5 + want.n), "%s", built[i].name);
			cr_expect(memcmp(room, "\0\0\0\1A", 5) == 0, "%s", built[i].name);
			cr_expect(o.need == want.n, "%s", built[i].name);
			cr_expect(o.n == (max == 5 + want.n ? max : 5), "%s", built[i].name);
			free(room);
		}
	}
}

/* More than filters take is not written, whatever the room. */
Test(milter, written_too_long)
{
	static uint8_t text[70000], room[80000];
	struct milter_out o = {.p = room, .max = sizeof(room)};

	memset(text, 'x', sizeof(text));
	cr_expect(milter_put_helo(&o, span_of(text, 65534)));
	cr_expect(o.n == 5 + 65535 && memcmp(room, "\0\1\0\0H", 5) == 0);
	o.n = 0;
	cr_expect(!milter_put_helo(&o, span_of(text, 65535)));
	cr_expect(o.n == 0 && o.need == 5 + 65536);
	/* The space that is left out does not count. */
	text[0] = ' ';
	cr_expect(milter_put_header(&o, &plain, SPAN_LIT("To"), span_of(text, 65532)));
	o.n = 0;
	cr_expect(!milter_put_header(&o, &spaced, SPAN_LIT("To"), span_of(text, 65532)));
}

/* ---- packets from the filter ---- */

struct read_row {
	struct span in;
	size_t max;
	enum milter_res res;
	size_t used;
};

static const struct read_row read_rows[] = {
	{OCTETS(""), 100, MILTER_MORE, 0},
	{OCTETS("\0\0\0"), 100, MILTER_MORE, 0},
	{OCTETS("\0\0\0\0"), 100, MILTER_EMPTY, 0},
	{OCTETS("\0\0\0\0c"), 100, MILTER_EMPTY, 0},
	{OCTETS("\0\0\0\1"), 100, MILTER_MORE, 0},
	{OCTETS("\xff\xff\xff\xff"), 100, MILTER_MORE, 0},
	{OCTETS("\0\0\0\1c"), 100, MILTER_OK, 5},
	{OCTETS("\0\0\0\1c"), 0, MILTER_OK, 5},
	{OCTETS("\0\0\0\1c\0\0\0\1a"), 100, MILTER_OK, 5},
	{OCTETS("\0\0\0\1C"), 100, MILTER_BAD_COMMAND, 0},
	{OCTETS("\0\0\0\1l"), 100, MILTER_BAD_COMMAND, 0},
	{OCTETS("\0\0\0\1\0"), 100, MILTER_BAD_COMMAND, 0},
	{OCTETS("HTTP/1.1 400"), 100, MILTER_BAD_COMMAND, 0},
	{OCTETS("\0\0\0\4q"), 3, MILTER_MORE, 0},
	{OCTETS("\0\0\0\4qab\0"), 3, MILTER_OK, 8},
	{OCTETS("\0\0\0\4q"), 2, MILTER_LONG, 0},
	{OCTETS("\xff\xff\xff\xffq"), SIZE_MAX, MILTER_LONG, 0},
	{OCTETS("\0\1\0\0q"), SIZE_MAX, MILTER_MORE, 0},
	{OCTETS("\0\1\0\1q"), SIZE_MAX, MILTER_LONG, 0},
	{OCTETS("\0\1\0\1b"), SIZE_MAX, MILTER_MORE, 0},
	{OCTETS("\0\1\0\1b"), 65536, MILTER_MORE, 0},
	{OCTETS("\0\1\0\1b"), 65535, MILTER_LONG, 0},
	{OCTETS("\xff\xff\xff\xff"
		"b"),
		SIZE_MAX, MILTER_MORE, 0},
};

Test(milter, read)
{
	for (size_t i = 0; i < ARRAY_LEN(read_rows); i++) {
		const struct read_row *row = &read_rows[i];
		struct milter_packet p;
		size_t used = 99;
		enum milter_res res = milter_read(row->in, row->max, &p, &used);

		cr_expect(res == row->res, "%zu: %s", i, milter_res_text(res));
		cr_expect(used == row->used, "%zu: %zu", i, used);
		if (res == MILTER_OK)
			cr_expect(p.kind == row->in.p[4] && p.payload.p == row->in.p + 5 &&
					  p.payload.n == used - 5,
				"%zu", i);
	}
}

/* Collects the packets of `in` that are whole, as text; returns what they take. */
static size_t read_all(struct span in, char *text, size_t max)
{
	size_t at = 0, n = 0, used;
	struct milter_packet p;

	while (milter_read(span_drop(in, at), 1000, &p, &used) == MILTER_OK) {
		n += (size_t)snprintf(text + n, max - n, "%c%zu ", p.kind, p.payload.n);
		at += used;
	}
	return at;
}

/* A session's worth of packets, cut anywhere into two pieces and octet by octet. */
Test(milter, read_in_pieces)
{
	static const struct span all = OCTETS("\0\0\0\x0dO\0\0\0\6\0\0\0\0\0\0\0\0"
					      "\0\0\0\1c\0\0\0\1p\0\0\0\1s"
					      "\0\0\0\x0f"
					      "y550 5.7.1 no.\0"
					      "\0\0\0\6h\x41\0b \0"
					      "\0\0\0\1b\0\0\0\4bxyz\0\0\0\1a");
	static const char want[] = "O12 c0 p0 s0 y14 h5 b0 b3 a0 ";
	char text[200];

	cr_assert(read_all(all, text, sizeof(text)) == all.n);
	cr_assert_str_eq(text, want);
	for (size_t cut = 0; cut <= all.n; cut++) {
		uint8_t *first = malloc(cut ? cut : 1);
		size_t at, got;

		text[0] = 0;
		memcpy(first, all.p, cut);
		at = read_all(span_of(first, cut), text, sizeof(text));
		free(first);
		got = strlen(text);
		at += read_all(span_drop(all, at), text + got, sizeof(text) - got);
		cr_expect(at == all.n && strcmp(text, want) == 0, "%zu: %s", cut, text);
	}
}

/* ---- replies ---- */

struct reply_case {
	char kind;
	struct span payload;
	enum milter_res res;
};

static const struct reply_case reply_cases[] = {
	/* without contents */
	{'c', OCTETS(""), MILTER_OK},
	{'a', OCTETS(""), MILTER_OK},
	{'d', OCTETS(""), MILTER_OK},
	{'r', OCTETS(""), MILTER_OK},
	{'t', OCTETS(""), MILTER_OK},
	{'f', OCTETS(""), MILTER_OK},
	{'4', OCTETS(""), MILTER_OK},
	{'s', OCTETS(""), MILTER_OK},
	{'p', OCTETS(""), MILTER_OK},
	{'c', OCTETS("\0"), MILTER_TRAILING},
	{'a', OCTETS("\0"), MILTER_TRAILING},
	{'d', OCTETS("x"), MILTER_TRAILING},
	{'r', OCTETS("x"), MILTER_TRAILING},
	{'t', OCTETS("x"), MILTER_TRAILING},
	{'f', OCTETS("x"), MILTER_TRAILING},
	{'4', OCTETS("x"), MILTER_TRAILING},
	{'s', OCTETS("x"), MILTER_TRAILING},
	{'p', OCTETS("x"), MILTER_TRAILING},
	{'O', OCTETS(""), MILTER_UNEXPECTED},
	{'O', OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0"), MILTER_UNEXPECTED},
	/* reply codes */
	{'y', OCTETS("550 5.7.1 no\0"), MILTER_OK},
	{'y', OCTETS("450 later\0"), MILTER_OK},
	{'y', OCTETS("550 \0"), MILTER_OK},
	{'y', OCTETS("599\0"), MILTER_OK},
	{'y', OCTETS("421 4.3.0 bye\0"), MILTER_OK},
	{'y', OCTETS("550 \xc3\xa9\t%% %\0"), MILTER_OK},
	{'y', OCTETS("550-5.7.1 a\r\n550 5.7.1 b\0"), MILTER_OK},
	{'y', OCTETS("550-a\r\n550-b\r\n550-\r\n550\0"), MILTER_OK},
	{'y', OCTETS(""), MILTER_NO_NUL},
	{'y', OCTETS("550 no"), MILTER_NO_NUL},
	{'y', OCTETS("550 no\0\0"), MILTER_TRAILING},
	{'y', OCTETS("550 no\0x"), MILTER_TRAILING},
	{'y', OCTETS("\0"), MILTER_BAD_CODE},
	{'y', OCTETS("55\0"), MILTER_BAD_CODE},
	{'y', OCTETS("250 ok\0"), MILTER_BAD_CODE},
	{'y', OCTETS("354 go\0"), MILTER_BAD_CODE},
	{'y', OCTETS("650 x\0"), MILTER_BAD_CODE},
	{'y', OCTETS("5x0 x\0"), MILTER_BAD_CODE},
	{'y', OCTETS("55: x\0"), MILTER_BAD_CODE},
	{'y', OCTETS("5/0 x\0"), MILTER_BAD_CODE},
	{'y', OCTETS("5500 x\0"), MILTER_BAD_CODE},
	{'y', OCTETS(" 550 x\0"), MILTER_BAD_CODE},
	{'y', OCTETS("550-a\r\nxyz\0"), MILTER_BAD_CODE},
	{'y', OCTETS("550-a\r\n\0"), MILTER_BAD_CODE},
	{'y', OCTETS("550 a\r\n\0"), MILTER_BAD_LINES},
	{'y', OCTETS("550 a\r\n550 b\0"), MILTER_BAD_LINES},
	{'y', OCTETS("550\r\n550 b\0"), MILTER_BAD_LINES},
	{'y', OCTETS("550-a\0"), MILTER_BAD_LINES},
	{'y', OCTETS("550-a\r\n550-b\0"), MILTER_BAD_LINES},
	{'y', OCTETS("550-a\r\n450 b\0"), MILTER_MIXED_CODES},
	{'y', OCTETS("550-a\r\n551 b\0"), MILTER_MIXED_CODES},
	{'y', OCTETS("550-a\r\n250 ok\0"), MILTER_BAD_CODE},
	{'y', OCTETS("550 a\n250 ok\0"), MILTER_BAD_OCTET},
	{'y', OCTETS("550-a\n550 b\0"), MILTER_BAD_LINES},
	{'y', OCTETS("550 a\rb\0"), MILTER_BAD_OCTET},
	{'y', OCTETS("550 a\r\0"), MILTER_BAD_OCTET},
	{'y', OCTETS("550-a\r\r\n550 b\0"), MILTER_BAD_OCTET},
	{'y', OCTETS("550 a\x1b[2J\0"), MILTER_BAD_OCTET},
	{'y', OCTETS("550 a\x7f\0"), MILTER_BAD_OCTET},
	/* addresses */
	{'+', OCTETS("<a@b>\0"), MILTER_OK},
	{'+', OCTETS("a@b\0"), MILTER_OK},
	{'+', OCTETS("<@x,@y:a@b>\0"), MILTER_OK},
	{'+', OCTETS("postmaster\0"), MILTER_OK},
	{'+', OCTETS("<\"a b\"@c>\0"), MILTER_OK},
	{'+', OCTETS(""), MILTER_NO_NUL},
	{'+', OCTETS("<a@b>"), MILTER_NO_NUL},
	{'+', OCTETS("<a@b>\0\0"), MILTER_TRAILING},
	{'+', OCTETS("<a@b>\0X\0"), MILTER_TRAILING},
	{'+', OCTETS("\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("<>\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("<a@b\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("a@b>\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("<a@b> NOTIFY=NEVER\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("a@b NOTIFY=NEVER\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("<a@b>\r\nDATA\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("a@b\r\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("a@b\n\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("<\"a\nb\"@c>\0"), MILTER_BAD_ADDRESS},
	{'+', OCTETS("a@b,c@d\0"), MILTER_BAD_ADDRESS},
	{'-', OCTETS("<a@b>\0"), MILTER_OK},
	{'-', OCTETS("<a@b>"), MILTER_NO_NUL},
	{'-', OCTETS("<a@b>\0X\0"), MILTER_TRAILING},
	{'-', OCTETS("<>\0"), MILTER_BAD_ADDRESS},
	{'2', OCTETS("<a@b>\0"), MILTER_OK},
	{'2', OCTETS("<a@b>\0\0"), MILTER_OK},
	{'2', OCTETS("<a@b>\0NOTIFY=NEVER ORCPT=rfc822;a\0"), MILTER_OK},
	{'2', OCTETS("a@b\0X=1\0"), MILTER_OK},
	{'2', OCTETS(""), MILTER_NO_NUL},
	{'2', OCTETS("<a@b>\0X"), MILTER_NO_NUL},
	{'2', OCTETS("<a@b>\0X\0\0"), MILTER_TRAILING},
	{'2', OCTETS("<a@b>\0X\0Y\0"), MILTER_TRAILING},
	{'2', OCTETS("<>\0X\0"), MILTER_BAD_ADDRESS},
	{'2', OCTETS("<a@b> Y\0X\0"), MILTER_BAD_ADDRESS},
	{'2', OCTETS("<a@b>\0NOTIFY=MAYBE\0"), MILTER_BAD_PARAM},
	{'2', OCTETS("<a@b>\0NOTIFY=NEVER NOTIFY=DELAY\0"), MILTER_BAD_PARAM},
	{'2', OCTETS("<a@b>\0=\0"), MILTER_BAD_PARAM},
	{'2', OCTETS("<a@b>\0X\r\nDATA\0"), MILTER_BAD_PARAM},
	{'2', OCTETS("<a@b>\0X\n\0"), MILTER_BAD_PARAM},
	{'2', OCTETS("<a@b>\0<c@d>\0"), MILTER_BAD_PARAM},
	{'e', OCTETS("<a@b>\0"), MILTER_OK},
	{'e', OCTETS("<>\0"), MILTER_OK},
	{'e', OCTETS("<>\0ENVID=x\0"), MILTER_OK},
	{'e', OCTETS("<a@b>\0SIZE=1 BODY=8BITMIME\0"), MILTER_OK},
	{'e', OCTETS("\0"), MILTER_BAD_ADDRESS},
	{'e', OCTETS("<a@b>"), MILTER_NO_NUL},
	{'e', OCTETS("<a@b>\0SIZE=1"), MILTER_NO_NUL},
	{'e', OCTETS("<a@b>\0SIZE=1\0x"), MILTER_TRAILING},
	{'e', OCTETS("<a@b>\0SIZE=x\0"), MILTER_BAD_PARAM},
	{'e', OCTETS("<a@b> SIZE=1\0"), MILTER_BAD_ADDRESS},
	{'e', OCTETS("<a@b>\nRCPT TO:<c>\0"), MILTER_BAD_ADDRESS},
	/* header fields */
	{'h', OCTETS("X-A\0b\0"), MILTER_OK},
	{'h', OCTETS("X-A\0\0"), MILTER_OK},
	{'h', OCTETS("X-A\0 b\n\tc\n d\0"), MILTER_OK},
	{'h', OCTETS("X-A\0\n b\0"), MILTER_OK},
	{'h', OCTETS("X-A\0 \n b\0"), MILTER_OK},
	{'h', OCTETS("X-A\0b \x1b$B\x7f\xff\0"), MILTER_OK},
	{'h', OCTETS("!~\0b:\0"), MILTER_OK},
	{'h', OCTETS(""), MILTER_NO_NUL},
	{'h', OCTETS("X-A"), MILTER_NO_NUL},
	{'h', OCTETS("X-A\0"), MILTER_NO_NUL},
	{'h', OCTETS("X-A\0b"), MILTER_NO_NUL},
	{'h', OCTETS("X-A\0b\0c"), MILTER_TRAILING},
	{'h', OCTETS("X-A\0b\0\0"), MILTER_TRAILING},
	{'h', OCTETS("\0b\0"), MILTER_BAD_NAME},
	{'h', OCTETS("X A\0b\0"), MILTER_BAD_NAME},
	{'h', OCTETS("X-A:\0b\0"), MILTER_BAD_NAME},
	{'h', OCTETS("X\nA\0b\0"), MILTER_BAD_NAME},
	{'h', OCTETS("X\x7f\0b\0"), MILTER_BAD_NAME},
	{'h', OCTETS("X\xc3\xa9\0b\0"), MILTER_BAD_NAME},
	{'h', OCTETS("X-A\0b\nX-B: c\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\n\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0\n\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\n\nbody\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\n \0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\n \n c\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\r\n c\0"), MILTER_OK},
	{'h', OCTETS("X-A\0b\r\n\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\r\nc\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\r\r\n c\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\rc\0"), MILTER_BAD_VALUE},
	{'h', OCTETS("X-A\0b\r\0"), MILTER_BAD_VALUE},
	{'i', OCTETS("\0\0\0\0X-A\0b\0"), MILTER_OK},
	{'i', OCTETS("\x7f\xff\xff\xffX-A\0b\0"), MILTER_OK},
	{'i', OCTETS("\x80\0\0\0X-A\0b\0"), MILTER_BAD_INDEX},
	{'i', OCTETS("\0\0\0"), MILTER_SHORT},
	{'i', OCTETS(""), MILTER_SHORT},
	{'i', OCTETS("\0\0\0\0"), MILTER_NO_NUL},
	{'i', OCTETS("\0\0\0\0X-A\0b"), MILTER_NO_NUL},
	{'i', OCTETS("\0\0\0\0X-A\0b\0c"), MILTER_TRAILING},
	{'i', OCTETS("\0\0\0\0\0b\0"), MILTER_BAD_NAME},
	{'i', OCTETS("\0\0\0\0X-A\0b\nc\0"), MILTER_BAD_VALUE},
	{'m', OCTETS("\0\0\0\1X-A\0b\0"), MILTER_OK},
	{'m', OCTETS("\0\0\0\1X-A\0\0"), MILTER_OK},
	{'m', OCTETS("\x7f\xff\xff\xffX-A\0b\0"), MILTER_OK},
	{'m', OCTETS("\0\0\0\0X-A\0b\0"), MILTER_BAD_INDEX},
	{'m', OCTETS("\xff\xff\xff\xffX-A\0b\0"), MILTER_BAD_INDEX},
	{'m', OCTETS("\0\0\1"), MILTER_SHORT},
	{'m', OCTETS("\0\0\0\1X-A\0"), MILTER_NO_NUL},
	{'m', OCTETS("\0\0\0\1X-A\0\0\0"), MILTER_TRAILING},
	{'m', OCTETS("\0\0\0\1X-A \0\0"), MILTER_BAD_NAME},
	{'m', OCTETS("\0\0\0\1X-A\0\r\n\0"), MILTER_BAD_VALUE},
	/* the rest */
	{'b', OCTETS(""), MILTER_OK},
	{'b', OCTETS("any\0\r\n.\r\n\xff"), MILTER_OK},
	{'q', OCTETS("looks bad\0"), MILTER_OK},
	{'q', OCTETS("\0"), MILTER_OK},
	{'q', OCTETS(""), MILTER_NO_NUL},
	{'q', OCTETS("x"), MILTER_NO_NUL},
	{'q', OCTETS("x\0y"), MILTER_TRAILING},
	{'q', OCTETS("x\ny\0"), MILTER_BAD_OCTET},
	{'q', OCTETS("x\r\0"), MILTER_BAD_OCTET},
};

static enum milter_res parse(char kind, struct span payload, struct milter_reply *out)
{
	struct milter_packet p = {.kind = (uint8_t)kind, .payload = payload};

	return milter_reply_parse(&p, out);
}

/* From a block of exactly its size; what is wrong leaves the result alone. */
Test(milter, replies)
{
	for (size_t i = 0; i < ARRAY_LEN(reply_cases); i++) {
		const struct reply_case *c = &reply_cases[i];
		uint8_t *copy = malloc(c->payload.n ? c->payload.n : 1);
		struct milter_reply r, before;
		enum milter_res res;

		memset(&r, 0x55, sizeof(r));
		before = r;
		memcpy(copy, c->payload.p, c->payload.n);
		res = parse(c->kind, span_of(copy, c->payload.n), &r);
		cr_expect(res == c->res, "%zu, %c: %s", i, c->kind, milter_res_text(res));
		if (res == MILTER_OK)
			cr_expect((char)r.kind == c->kind, "%zu", i);
		else
			cr_expect(memcmp(&r, &before, sizeof(r)) == 0, "%zu", i);
		free(copy);
	}
}

/* Whatever is cut off the end of a good packet with contents, it is not read as good (a text that
 * has lost its NUL has no end). */
Test(milter, replies_cut_short)
{
	for (size_t i = 0; i < ARRAY_LEN(reply_cases); i++) {
		const struct reply_case *c = &reply_cases[i];
		struct milter_reply r;

		if (c->res != MILTER_OK || c->kind == 'b')
			continue;
		for (size_t n = 0; n < c->payload.n; n++) {
			enum milter_res res = parse(c->kind, span_of(c->payload.p, n), &r);
			/* Parameters may be missing. */
			bool whole = (c->kind == 'e' || c->kind == '2') && n > 0 &&
				     memchr(c->payload.p, 0, c->payload.n) == c->payload.p + n - 1;

			cr_expect((res == MILTER_OK) == whole, "%zu, %zu: %s", i, n,
				milter_res_text(res));
		}
	}
}

static bool is(struct span got, const char *want)
{
	return span_eq(got, span_str(want));
}

Test(milter, reply_code)
{
	struct milter_reply r;
	struct milter_line line;
	struct span rest;

	cr_assert(parse('y', SPAN_LIT("550 5.7.1 no %%\0"), &r) == MILTER_OK);
	cr_expect(r.code.code == 550 && r.code.lines == 1);
	rest = r.code.raw;
	cr_assert(milter_line_next(&rest, &line));
	cr_expect(is(line.enhanced, "5.7.1") && is(line.text, "no %%"));
	cr_expect(!milter_line_next(&rest, &line));

	cr_assert(parse('y', SPAN_LIT("450-4.7.1 a\r\n450-b\r\n450-\r\n450 4.7.1\0"), &r) ==
		  MILTER_OK);
	cr_expect(r.code.code == 450 && r.code.lines == 4);
	rest = r.code.raw;
	cr_assert(milter_line_next(&rest, &line));
	cr_expect(is(line.enhanced, "4.7.1") && is(line.text, "a"));
	cr_assert(milter_line_next(&rest, &line));
	cr_expect(is(line.enhanced, "") && is(line.text, "b"));
	cr_assert(milter_line_next(&rest, &line));
	cr_expect(is(line.enhanced, "") && is(line.text, ""));
	cr_assert(milter_line_next(&rest, &line));
	cr_expect(is(line.enhanced, "4.7.1") && is(line.text, ""));
	cr_expect(!milter_line_next(&rest, &line));
}

/* An enhanced code must be one, and of the reply's class. */
Test(milter, reply_code_enhanced)
{
	static const struct {
		const char *raw, *enhanced, *text;
	} rows[] = {
		{"550 5.7.1 x", "5.7.1", "x"},
		{"550 5.7.1  x", "5.7.1", " x"},
		{"550 5.7.1", "5.7.1", ""},
		{"550 5.7.1 ", "5.7.1", ""},
		{"550 4.7.1 x", "", "4.7.1 x"},
		{"550 2.0.0 x", "", "2.0.0 x"},
		{"450 5.7.1 x", "", "5.7.1 x"},
		{"550 5.7 x", "", "5.7 x"},
		{"550 5.7.1x", "", "5.7.1x"},
		{"550  5.7.1 x", "", " 5.7.1 x"},
		{"550 ", "", ""},
		{"550", "", ""},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct span rest = span_of(rows[i].raw, strlen(rows[i].raw) + 1);
		struct milter_line line;
		struct milter_reply r;

		cr_assert(parse('y', rest, &r) == MILTER_OK, "%s", rows[i].raw);
		rest = r.code.raw;
		cr_assert(milter_line_next(&rest, &line));
		cr_expect(is(line.enhanced, rows[i].enhanced), "%s", rows[i].raw);
		cr_expect(is(line.text, rows[i].text), "%s", rows[i].raw);
	}
}

/* "550-xx..." of so many lines, the last one of so many octets. */
static enum milter_res code_of(unsigned lines, size_t octets)
{
	static char text[64 * 1024];
	struct milter_reply r;
	size_t n = 0;

	for (unsigned i = 1; i < lines; i++)
		n += (size_t)sprintf(text + n, "550-x\r\n");
	n += (size_t)sprintf(text + n, "550 ");
	memset(text + n, 'x', octets);
	n += octets;
	text[n++] = 0;
	return parse('y', span_of(text, n), &r);
}

Test(milter, reply_code_limits)
{
	cr_expect(code_of(1, MILTER_TEXT_BYTES_MAX) == MILTER_OK);
	cr_expect(code_of(1, MILTER_TEXT_BYTES_MAX + 1) == MILTER_LONG_LINE);
	cr_expect(code_of(MILTER_LINES_MAX, MILTER_TEXT_BYTES_MAX) == MILTER_OK);
	cr_expect(code_of(MILTER_LINES_MAX + 1, 1) == MILTER_BAD_LINES);
	cr_expect(code_of(5000, 1) == MILTER_BAD_LINES);
}

Test(milter, unescape)
{
	static const struct {
		const char *in, *out;
	} rows[] = {
		{"", ""},
		{"a", "a"},
		{"%", "%"},
		{"%%", "%"},
		{"%%%", "%%"},
		{"%%%%", "%%"},
		{"100%% of %s", "100% of %s"},
		{"%a%%", "%a%"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		size_t n = strlen(rows[i].out);

		for (size_t max = 0; max <= n + 1; max++) {
			uint8_t *out = malloc(max ? max : 1);

			cr_expect(milter_unescape(span_str(rows[i].in), out, max) == n);
			cr_expect(memcmp(out, rows[i].out, MIN_OF(n, max)) == 0, "%s", rows[i].in);
			free(out);
		}
	}
}

Test(milter, addresses)
{
	struct milter_reply r;

	cr_assert(parse('+', SPAN_LIT("<a@b>\0"), &r) == MILTER_OK);
	cr_expect(!r.address.null && is(r.address.mailbox, "a@b") && r.address.params.n == 0);
	cr_assert(parse('-', SPAN_LIT(" <@x:\"a b\"@c> \0"), &r) == MILTER_OK);
	cr_expect(is(r.address.mailbox, "\"a b\"@c"));
	cr_assert(parse('2', SPAN_LIT("a@b\0 X=1 Y \0"), &r) == MILTER_OK);
	cr_expect(is(r.address.mailbox, "a@b") && is(r.address.params, " X=1 Y "));
	cr_assert(parse('e', SPAN_LIT("<>\0RET=HDRS\0"), &r) == MILTER_OK);
	cr_expect(r.address.null && r.address.mailbox.n == 0 && is(r.address.params, "RET=HDRS"));
	cr_assert(parse('e', SPAN_LIT("<a@b>\0"), &r) == MILTER_OK);
	cr_expect(!r.address.null && is(r.address.mailbox, "a@b") && r.address.params.n == 0);
}

/* As long as a command line can be, and longer. */
Test(milter, addresses_long)
{
	static char text[40000];
	struct milter_reply r;
	size_t most = 4096 - strlen("TO:a@b ");

	memcpy(text, "a@b\0X=", 6);
	memset(text + 6, 'x', sizeof(text) - 6);
	text[4 + most] = 0;
	cr_expect(parse('2', span_of(text, 4 + most + 1), &r) == MILTER_OK);
	text[4 + most] = 'x';
	text[4 + most + 1] = 0;
	cr_expect(parse('2', span_of(text, 4 + most + 2), &r) == MILTER_BAD_PARAM);
	text[4 + most + 1] = 'x';
	text[sizeof(text) - 1] = 0;
	cr_expect(parse('2', span_of(text, sizeof(text)), &r) == MILTER_BAD_PARAM);
	text[3] = 'x';
	cr_expect(parse('2', span_of(text, sizeof(text)), &r) == MILTER_BAD_ADDRESS);
	cr_expect(parse('e', span_of(text + 1, sizeof(text) - 1), &r) == MILTER_BAD_ADDRESS);
}

Test(milter, fields)
{
	struct milter_reply r;

	cr_assert(parse('h', SPAN_LIT("X-A\0 b\n\tc\0"), &r) == MILTER_OK);
	cr_expect(is(r.field.name, "X-A") && is(r.field.value, " b\n\tc") && r.field.index == 0);
	cr_assert(parse('i', SPAN_LIT("\1\2\3\4N\0v\0"), &r) == MILTER_OK);
	cr_expect(is(r.field.name, "N") && is(r.field.value, "v") && r.field.index == 0x1020304);
	cr_assert(parse('m', SPAN_LIT("\0\0\0\2N\0\0"), &r) == MILTER_OK);
	cr_expect(is(r.field.name, "N") && r.field.value.n == 0 && r.field.index == 2);
	cr_assert(parse('b', SPAN_LIT("x\0y"), &r) == MILTER_OK);
	cr_expect(span_eq(r.body, SPAN_LIT("x\0y")));
	cr_assert(parse('q', SPAN_LIT("why\0"), &r) == MILTER_OK);
	cr_expect(is(r.reason, "why"));
}

/* ---- negotiation ---- */

struct optneg_case {
	struct span payload;
	enum milter_res res;
};

static const struct optneg_case optneg_cases[] = {
	{OCTETS("\0\0\0\6\0\0\1\x11\0\x10\7\2"), MILTER_OK},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0\0\0\0\0\0"), MILTER_OK},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0\0\0\0\2i {x}\0"), MILTER_OK},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0\0\0\0\x63i\0"), MILTER_OK},
	{OCTETS(""), MILTER_SHORT},
	{OCTETS("\0\0\0"), MILTER_SHORT},
	{OCTETS("\0\0\0\6\0\0\0\0"), MILTER_SHORT},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0"), MILTER_SHORT},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0\0"), MILTER_SHORT},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0\0\0\0\0"), MILTER_NO_NUL},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0\0\0\0\0i"), MILTER_NO_NUL},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0\0\0\0\0i\0x"), MILTER_SHORT},
	{OCTETS("\0\0\0\6\0\0\0\0\0\0\0\0\0\0\0\0i\n\0"), MILTER_BAD_OCTET},
};

Test(milter, optneg)
{
	for (size_t i = 0; i < ARRAY_LEN(optneg_cases); i++) {
		struct milter_packet p = {'O', optneg_cases[i].payload};
		struct milter_optneg o;
		enum milter_res res = milter_optneg_parse(&p, &o);

		cr_expect(res == optneg_cases[i].res, "%zu: %s", i, milter_res_text(res));
		p.kind = 'c';
		cr_expect(milter_optneg_parse(&p, &o) == MILTER_UNEXPECTED);
	}
}

Test(milter, optneg_macros)
{
	struct milter_packet p = {'O', OCTETS("\0\0\0\6\0\0\1\xff\0\x0f\xf0\x80"
					      "\0\0\0\0j, {daemon_name},_\0"
					      "\0\0\0\2i\0\0\0\0\2{auth_authen}\0"
					      "\0\0\0\6\0"
					      "\0\0\0\7{x}\0\xff\xff\xff\xff{y}\0")};
	struct milter_optneg o;
	struct span rest, name;

	cr_assert(milter_optneg_parse(&p, &o) == MILTER_OK);
	cr_expect(o.version == 6 && o.actions == 0x1ff && o.protocol == 0xff080);
	rest = o.macros[MILTER_M_CONNECT];
	cr_assert(milter_macro_next(&rest, &name) && is(name, "j"));
	cr_assert(milter_macro_next(&rest, &name) && is(name, "{daemon_name}"));
	cr_assert(milter_macro_next(&rest, &name) && is(name, "_"));
	cr_assert(!milter_macro_next(&rest, &name) && !milter_macro_next(&rest, &name));
	cr_expect(is(o.macros[MILTER_M_MAIL], "{auth_authen}"), "the last one counts");
	cr_expect(o.macros[MILTER_M_EOH].p && o.macros[MILTER_M_EOH].n == 0);
	cr_expect(!o.macros[MILTER_M_HELO].p && !o.macros[MILTER_M_RCPT].p);
	cr_expect(!o.macros[MILTER_M_DATA].p && !o.macros[MILTER_M_EOB].p);
	rest = SPAN_NONE;
	cr_expect(!milter_macro_next(&rest, &name));
}

struct neg_case {
	enum milter_mode mode;
	uint32_t version, actions, protocol;
	enum milter_neg_res res;
	uint32_t refused;
};

static const struct neg_case neg_cases[] = {
	/* opendkim 2.11 signing, as measured */
	{MILTER_HOLD_ALL, 6, 0x111, 0x100702, MILTER_NEG_OK, 0},
	{MILTER_HOLD_END, 6, 0x111, 0x100702, MILTER_NEG_ACTION, 0x11},
	{MILTER_STREAM, 6, 0x111, 0x100702, MILTER_NEG_ACTION, 0x11},
	/* rspamd 3.4: all actions it is offered */
	{MILTER_HOLD_ALL, 6, 0x1ff, 0xff080, MILTER_NEG_OK, 0},
	{MILTER_HOLD_END, 6, 0x120, 0xff080, MILTER_NEG_OK, 0},
	{MILTER_STREAM, 6, 0x100, 0xff080, MILTER_NEG_OK, 0},
	{MILTER_HOLD_END, 6, 0x1ff, 0xff080, MILTER_NEG_ACTION, 0xdf},
	/* clamav-milter: quarantine */
	{MILTER_HOLD_END, 6, 0x20, 0, MILTER_NEG_OK, 0},
	{MILTER_STREAM, 6, 0x20, 0, MILTER_NEG_ACTION, 0x20},
	/* versions */
	{MILTER_STREAM, 0, 0, 0, MILTER_NEG_OLD, 0},
	{MILTER_STREAM, 1, 0, 0, MILTER_NEG_OLD, 0},
	{MILTER_STREAM, 2, 0, 0x7f, MILTER_NEG_OK, 0},
	{MILTER_STREAM, 7, 0, 0, MILTER_NEG_NEW, 0},
	{MILTER_STREAM, 0xffffffff, 0, 0, MILTER_NEG_NEW, 0},
	{MILTER_STREAM, 1, 0x200, 0x800, MILTER_NEG_OLD, 0},
	/* bits that nobody offered */
	{MILTER_HOLD_ALL, 6, 0x200, 0, MILTER_NEG_ACTION, 0x200},
	{MILTER_HOLD_ALL, 6, 0x80000001, 0, MILTER_NEG_ACTION, 0x80000000},
	{MILTER_HOLD_ALL, 6, 0, 0x1ff7ff, MILTER_NEG_OK, 0},
	{MILTER_HOLD_ALL, 6, 0, 0x800, MILTER_NEG_PROTOCOL, 0x800},
	{MILTER_HOLD_ALL, 6, 0, 0x10000001, MILTER_NEG_PROTOCOL, 0x10000000},
	{MILTER_HOLD_ALL, 6, 0, 0x200000, MILTER_NEG_PROTOCOL, 0x200000},
};

Test(milter, negotiation)
{
	for (size_t i = 0; i < ARRAY_LEN(neg_cases); i++) {
		const struct neg_case *c = &neg_cases[i];
		struct milter_offer offer = milter_offer_for(c->mode);
		struct milter_optneg answer = {
			.version = c->version, .actions = c->actions, .protocol = c->protocol};
		struct milter_neg neg = {99, 99, 99};
		uint32_t refused = 1;
		enum milter_neg_res res = milter_negotiate(&offer, &answer, &neg, &refused);

		cr_expect(res == c->res, "%zu: %d", i, res);
		cr_expect(refused == c->refused, "%zu: %x", i, refused);
		if (res == MILTER_NEG_OK)
			cr_expect(neg.version == c->version && neg.actions == c->actions &&
					  neg.protocol == c->protocol,
				"%zu", i);
		else
			cr_expect(neg.version == 99 && neg.actions == 99, "%zu", i);
	}
}

Test(milter, offers)
{
	cr_expect(milter_offer_for(MILTER_STREAM).actions == 0x100);
	cr_expect(milter_offer_for(MILTER_HOLD_END).actions == 0x120);
	cr_expect(milter_offer_for(MILTER_HOLD_ALL).actions == 0x1ff);
	for (int mode = MILTER_STREAM; mode <= MILTER_HOLD_ALL; mode++) {
		cr_expect(milter_offer_for((enum milter_mode)mode).protocol == 0x1ff7ff);
		cr_expect(milter_offer_for((enum milter_mode)mode).version == 6);
	}
}

#define BIT(step) (1u << (step))
#define ALL_STEPS (BIT(MILTER_STEP_COUNT) - 1)

/* Which steps a filter hears of and which it answers, by what it said. */
static const struct {
	struct milter_neg neg;
	uint32_t wants, replies;
} step_cases[] = {
	{{6, 0, 0}, ALL_STEPS, ALL_STEPS},
	/* opendkim */
	{{6, 0x111, 0x100702},
		ALL_STEPS & ~(BIT(MILTER_AT_HELO) | BIT(MILTER_AT_DATA) | BIT(MILTER_AT_UNKNOWN)),
		ALL_STEPS & ~(BIT(MILTER_AT_HELO) | BIT(MILTER_AT_DATA) | BIT(MILTER_AT_UNKNOWN))},
	/* rspamd */
	{{6, 0x1ff, 0xff080}, ALL_STEPS, BIT(MILTER_AT_EOB)},
	/* older ones know fewer steps */
	{{2, 0, 0}, ALL_STEPS & ~(BIT(MILTER_AT_DATA) | BIT(MILTER_AT_UNKNOWN)),
		ALL_STEPS & ~(BIT(MILTER_AT_DATA) | BIT(MILTER_AT_UNKNOWN))},
	{{3, 0, 0}, ALL_STEPS & ~BIT(MILTER_AT_DATA), ALL_STEPS & ~BIT(MILTER_AT_DATA)},
	{{4, 0, 0}, ALL_STEPS, ALL_STEPS},
	/* one bit each */
	{{6, 0, 0x001}, ALL_STEPS & ~BIT(MILTER_AT_CONNECT), ALL_STEPS & ~BIT(MILTER_AT_CONNECT)},
	{{6, 0, 0x002}, ALL_STEPS & ~BIT(MILTER_AT_HELO), ALL_STEPS & ~BIT(MILTER_AT_HELO)},
	{{6, 0, 0x004}, ALL_STEPS & ~BIT(MILTER_AT_MAIL), ALL_STEPS & ~BIT(MILTER_AT_MAIL)},
	{{6, 0, 0x008}, ALL_STEPS & ~BIT(MILTER_AT_RCPT), ALL_STEPS & ~BIT(MILTER_AT_RCPT)},
	{{6, 0, 0x010}, ALL_STEPS & ~BIT(MILTER_AT_BODY), ALL_STEPS & ~BIT(MILTER_AT_BODY)},
	{{6, 0, 0x020}, ALL_STEPS & ~BIT(MILTER_AT_HEADER), ALL_STEPS & ~BIT(MILTER_AT_HEADER)},
	{{6, 0, 0x040}, ALL_STEPS & ~BIT(MILTER_AT_EOH), ALL_STEPS & ~BIT(MILTER_AT_EOH)},
	{{6, 0, 0x100}, ALL_STEPS & ~BIT(MILTER_AT_UNKNOWN), ALL_STEPS & ~BIT(MILTER_AT_UNKNOWN)},
	{{6, 0, 0x200}, ALL_STEPS & ~BIT(MILTER_AT_DATA), ALL_STEPS & ~BIT(MILTER_AT_DATA)},
	{{6, 0, 0x080}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_HEADER)},
	{{6, 0, 0x1000}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_CONNECT)},
	{{6, 0, 0x2000}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_HELO)},
	{{6, 0, 0x4000}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_MAIL)},
	{{6, 0, 0x8000}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_RCPT)},
	{{6, 0, 0x10000}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_DATA)},
	{{6, 0, 0x20000}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_UNKNOWN)},
	{{6, 0, 0x40000}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_EOH)},
	{{6, 0, 0x80000}, ALL_STEPS, ALL_STEPS & ~BIT(MILTER_AT_BODY)},
	{{6, 0, 0x100c00}, ALL_STEPS, ALL_STEPS},
};

Test(milter, steps)
{
	for (size_t i = 0; i < ARRAY_LEN(step_cases); i++) {
		uint32_t wants = 0, replies = 0;

		for (unsigned s = 0; s < MILTER_STEP_COUNT; s++) {
			wants |= (uint32_t)milter_wants(&step_cases[i].neg, s) << s;
			replies |= (uint32_t)milter_replies(&step_cases[i].neg, s) << s;
		}
		cr_expect(wants == step_cases[i].wants, "%zu: %x", i, wants);
		cr_expect(replies == step_cases[i].replies, "%zu: %x", i, replies);
	}
	cr_expect(milter_skips(&(struct milter_neg){6, 0, 0x400}));
	cr_expect(!milter_skips(&(struct milter_neg){6, 0, ~0x400u}));
	cr_expect(milter_keeps_space(&spaced) && !milter_keeps_space(&plain));
}

/* ---- what may come when ---- */

#define MESSAGE_STEPS                                                                              \
	(BIT(MILTER_AT_MAIL) | BIT(MILTER_AT_RCPT) | BIT(MILTER_AT_DATA) | BIT(MILTER_AT_HEADER) | \
		BIT(MILTER_AT_EOH) | BIT(MILTER_AT_BODY) | BIT(MILTER_AT_EOB))

static const struct {
	char kind;
	uint32_t steps;
	uint32_t action;
	bool final;
} when_cases[] = {
	{'c', ALL_STEPS, 0, true},
	{'a', ALL_STEPS, 0, true},
	{'r', ALL_STEPS, 0, true},
	{'t', ALL_STEPS, 0, true},
	{'y', ALL_STEPS, 0, true},
	{'f', ALL_STEPS, 0, true},
	{'4', ALL_STEPS, 0, true},
	{'p', ALL_STEPS, 0, false},
	{'d', MESSAGE_STEPS, 0, true},
	{'s', BIT(MILTER_AT_BODY), 0, true},
	{'h', BIT(MILTER_AT_EOB), 0x1, false},
	{'i', BIT(MILTER_AT_EOB), 0x1, false},
	{'b', BIT(MILTER_AT_EOB), 0x2, false},
	{'+', BIT(MILTER_AT_EOB), 0x4, false},
	{'-', BIT(MILTER_AT_EOB), 0x8, false},
	{'m', BIT(MILTER_AT_EOB), 0x10, false},
	{'q', BIT(MILTER_AT_EOB), 0x20, false},
	{'e', BIT(MILTER_AT_EOB), 0x40, false},
	{'2', BIT(MILTER_AT_EOB), 0x80, false},
	{'O', 0, 0, false},
};

Test(milter, when)
{
	for (size_t i = 0; i < ARRAY_LEN(when_cases); i++) {
		enum milter_reply_kind kind = (enum milter_reply_kind)when_cases[i].kind;
		struct milter_neg all = {6, 0x1ff, MILTER_P_SKIP};
		struct milter_neg none = {6, 0x1ff & ~when_cases[i].action, MILTER_P_SKIP};

		cr_expect(milter_reply_final(kind) == when_cases[i].final, "%c", kind);
		for (unsigned s = 0; s < MILTER_STEP_COUNT; s++) {
			bool may = when_cases[i].steps >> s & 1;

			cr_expect(milter_reply_check(&all, s, kind) ==
					  (may ? MILTER_OK : MILTER_UNEXPECTED),
				"%c %u", kind, s);
			if (may && when_cases[i].action)
				cr_expect(milter_reply_check(&none, s, kind) == MILTER_NOT_AGREED);
		}
	}
	cr_expect(milter_reply_check(&plain, MILTER_AT_BODY, MILTER_R_SKIP) == MILTER_UNEXPECTED);
}

/* Nothing may come where no reply is due. */
Test(milter, when_not)
{
	struct milter_neg rspamd = {6, 0x1ff, 0xff080};
	struct milter_neg opendkim = {6, 0x111, 0x100702};

	for (unsigned s = 0; s < MILTER_STEP_COUNT; s++)
		cr_expect((milter_reply_check(&rspamd, s, MILTER_R_CONTINUE) == MILTER_OK) ==
			  (s == MILTER_AT_EOB));
	cr_expect(milter_reply_check(&opendkim, MILTER_AT_HELO, MILTER_R_CONTINUE) ==
		  MILTER_UNEXPECTED);
	cr_expect(milter_reply_check(&opendkim, MILTER_AT_EOB, MILTER_R_INSHEADER) == MILTER_OK);
	cr_expect(milter_reply_check(&opendkim, MILTER_AT_EOB, MILTER_R_REPLBODY) ==
		  MILTER_NOT_AGREED);
}
