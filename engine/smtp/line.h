/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Finding lines. Commands end with CRLF and nothing else (a bare LF is refused: two servers that
 * disagree on it disagree on what is a command); replies also with a bare LF, as some servers send.
 * Pure; resumable: `seen` remembers how much of an unfinished line was searched.
 */
#ifndef SMTP_LINE_H
#define SMTP_LINE_H

#include "ring/base.h"

#define SMTP_COMMAND_BYTES_MAX 4096 /* with CRLF; RFC 5321 4.5.3.1.4 plus room for extensions */
#define SMTP_AUTH_BYTES_MAX 12288   /* RFC 4954 4.3: within an AUTH exchange */
#define SMTP_REPLY_LINE_BYTES_MAX 2048
#define SMTP_REPLY_LINES_MAX 100
#define SMTP_REPLY_BYTES_MAX 32000 /* whole reply */

enum line_res {
	LINE_MORE,    /* no end yet, and still within the limit */
	LINE_OK,      /* line: without its line end; next: offset behind it */
	LINE_BARE_LF, /* complete, but ended by a bare LF; line and next as above */
	LINE_LONG,    /* no end within the limit */
};

/* Searches in[*seen..n) for LF. `max` counts the line end and may change between calls. On anything
 * but LINE_MORE *seen is 0; without a line `line` is empty and `next` 0. */
enum line_res smtp_line(struct span in, size_t *seen, size_t max, struct span *line, size_t *next);

/* A line with a NUL, a bare CR or another control octet (HT allowed, DEL not) is not a command. */
bool smtp_line_clean(struct span line);

#endif
