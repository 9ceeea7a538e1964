/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Command lines: verb, arguments, paths, parameters. Pure; every span points into the line.
 * Lenient where servers are (spaces after the colon, missing angle brackets), because what is read
 * here must be what the server behind will read: a line this parser cannot read is refused.
 */
#ifndef SMTP_CMD_H
#define SMTP_CMD_H

#include "ring/base.h"

enum smtp_verb {
#define X(id, verb, flags, rfc) id,
#include "engine/smtp/verbs.def"
#undef X
	SMTP_OTHER,
	SMTP_VERB_COUNT
};

enum smtp_verb_flag {
	SMTP_F_SYNC = 1,
	SMTP_F_MAILS = 2,
	SMTP_F_ENDS = 4,
	SMTP_F_REFUSE = 8,
	SMTP_F_JUNK = 16,
	SMTP_F_EARLY = 32,
};

unsigned smtp_verb_flags(
	enum smtp_verb v); /* SMTP_OTHER: SYNC (who knows what it changes) and JUNK */
const char *smtp_verb_name(enum smtp_verb v); /* "MAIL"; "other" */

struct smtp_cmd {
	enum smtp_verb verb;
	struct span word; /* the verb as written */
	struct span args; /* behind it, leading and trailing spaces and tabs dropped */
};

/* `line` without its line end. False: no verb at all (empty, or not starting with a letter). */
bool smtp_cmd_parse(struct span line, struct smtp_cmd *out);

/* One ESMTP parameter: NAME or NAME=value. */
struct smtp_param {
	struct span name, value; /* value.p == NULL when there is no '=' */
};

#define SMTP_PATH_BYTES_MAX 1024  /* between the brackets, a source route included */
#define SMTP_DOMAIN_BYTES_MAX 255 /* RFC 5321 4.5.3.1.2 */
#define SMTP_PARAMS_MAX 32	  /* no sender comes near it; keeps the search for twins short */

struct smtp_path {
	bool null;	     /* <> */
	struct span mailbox; /* without brackets and source route */
	struct span local;   /* quotes and escapes as written */
	struct span domain;  /* empty when there is none ("postmaster", "root"); an address
				literal keeps its brackets */
	struct span params;  /* the rest of the line, for smtp_param_next */
	bool utf8;	     /* an octet above 127 in the mailbox */
};

enum path_res {
	PATH_OK,
	PATH_NO_KEYWORD, /* not FROM: / TO: */
	PATH_BAD,	 /* not a path; also <> as a recipient */
	PATH_TOO_LONG,	/* the two limits above; RFC 5321 4.5.3.1.1's 64 octets for a local part are
			   not kept: real senders (VERP, SRS) pass them */
	PATH_BAD_PARAM, /* a parameter's syntax, or too many of them */
};

/* `args` of MAIL ("FROM:...") or RCPT ("TO:..."). Read like servers that are strict where it
 * counts: blanks after the colon and missing brackets are taken, dots may stand anywhere in a local
 * part, a domain may be missing; blanks inside the brackets, a second '@' and specials outside
 * quotes are not. All parameters are checked for syntax: esmtp-keyword = (ALPHA/DIGIT)
 * *(ALPHA/DIGIT/"-"), value (not empty) without SP, "=" and controls. By meaning: the two functions
 * below. */
enum path_res smtp_path_parse(struct span args, bool is_rcpt, struct smtp_path *out);

/* Iterates: *rest starts as path.params. False at the end. */
bool smtp_param_next(struct span *rest, struct smtp_param *out);

/* What MAIL's parameters say. Values of known parameters are checked: SIZE (RFC 1870), BODY (6152,
 * 3030), SMTPUTF8 (6531), RET ENVID (3461), AUTH (4954), REQUIRETLS (8689), BY (2852), HOLDFOR
 * HOLDUNTIL (4865), MT-PRIORITY (6710). Unknown ones are let through. HOLDFOR and HOLDUNTIL exclude
 * each other. */
struct smtp_mail_params {
	bool has_size;
	uint64_t size;
	enum { BODY_NONE, BODY_7BIT, BODY_8BITMIME, BODY_BINARYMIME } body;
	bool smtputf8, requiretls, has_auth, has_ret, has_envid, has_by, has_hold, has_priority;
};
/* False with *bad set to the offending parameter, "NAME=value". A parameter given twice is an
 * error. */
bool smtp_mail_params(struct span params, struct smtp_mail_params *out, struct span *bad);
/* RCPT: NOTIFY ORCPT (3461), RRVS (7293); unknown ones are let through. */
bool smtp_rcpt_params(struct span params, struct span *bad);

/* xtext (RFC 3461 4); hexadecimal digits of either case, as servers take them. */
bool smtp_xtext_valid(struct span s);

/* "BDAT size [LAST]" arguments. False: cannot be framed. A size above 2^31-1 cannot: a server that
 * reads it into 32 bits (Exim's "%u") would take fewer octets than we pass, and the rest as
 * commands. */
#define SMTP_BDAT_BYTES_MAX 2147483647u
bool smtp_bdat_parse(struct span args, uint64_t *size, bool *last);

/* AUTH arguments: mechanism (RFC 4422 3.1) and whether an initial response is there (its octets
 * stay where they are). False: no mechanism, or a third word. */
#define SMTP_MECHANISM_BYTES_MAX 20
bool smtp_auth_parse(struct span args, struct span *mechanism, bool *initial);

#endif
