/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One JSON object on one line, written straight to a stdio stream. Octets above 126 and controls
 * are escaped as \u00XX (the octet's number, whatever the encoding), so any envelope makes a valid
 * line and can be read back exactly. Write errors are the stream's (ferror). Not for the data path.
 */
#ifndef BENCH_JSON_H
#define BENCH_JSON_H

#include "ring/base.h"

struct json {
	FILE *f;
	bool comma;
};

void json_open(struct json *j, FILE *f, const char *key); /* "{"; f: only at the top, else NULL */
void json_close(struct json *j);			  /* "}" */
void json_list(struct json *j, const char *key);	  /* "[" */
void json_list_end(struct json *j);
void json_str(struct json *j, const char *key, struct span value); /* key NULL inside a list */
void json_u64(struct json *j, const char *key, uint64_t value);
void json_hex(struct json *j, const char *key, uint64_t value); /* 16 hex digits, as a string */
void json_num(struct json *j, const char *key, double value);	/* six digits behind the point */

#endif
