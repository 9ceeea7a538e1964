/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Replies: complete, possibly multi-line (RFC 5321 4.2.1). A reply is handed on only when its last
 * line is there. Pure; resumable at every octet.
 */
#ifndef SMTP_REPLY_H
#define SMTP_REPLY_H

#include "ring/base.h"

enum reply_res {
	REPLY_MORE,
	REPLY_OK,
	REPLY_BAD_CODE,	 /* not three digits 2-5, then '-', ' ' or the line end */
	REPLY_MIXED,	 /* the code changes between lines */
	REPLY_LONG_LINE, /* SMTP_REPLY_LINE_BYTES_MAX */
	REPLY_LONG,	 /* SMTP_REPLY_LINES_MAX or SMTP_REPLY_BYTES_MAX */
	REPLY_BAD_OCTET, /* NUL or a bare CR inside a line */
};
const char *reply_res_text(enum reply_res r);

/* The server closes after these (RFC 5321 3.8, RFC 7504 3). */
static inline bool smtp_says_goodbye(unsigned code)
{
	return code == 421 || code == 521;
}

/* Where an unfinished reply was left; zero it for each new reply. */
struct reply_scan {
	uint32_t at;   /* octets of finished lines */
	uint32_t seen; /* of the unfinished line, searched */
	uint16_t lines;
	uint16_t code; /* of the first line */
	bool bare_lf;  /* some line ended with a bare LF */
};

struct smtp_reply {
	uint16_t code;
	uint16_t lines;
	bool bare_lf;	      /* must be rewritten with CRLF before it goes on */
	struct span raw;      /* all lines with their line ends */
	struct span text;     /* the last line's text */
	struct span enhanced; /* "5.7.1" at the start of the text, or empty */
};

/* `in` starts where the reply starts and holds everything received of it so far (grown since the
 * last call with the same *rs). On REPLY_OK *used is the reply's length. */
enum reply_res smtp_reply_scan(
	struct span in, struct reply_scan *rs, struct smtp_reply *out, size_t *used);

/* Iterates the lines of a complete reply: *rest starts as reply.raw. `text` is behind "ddd-" or
 * "ddd ". */
bool smtp_reply_line(struct span *rest, struct span *text);

/* "d.d.d" at the start of s followed by SP or the end; its length or 0. */
size_t smtp_enhanced_len(struct span s);

#endif
