/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Postfix policy delegation, the client's side of the wire: a request written, a reply read. Pure,
 * any thread: no input or output, no clock, no allocation.
 *
 * Sources: Postfix SMTPD_POLICY_README (attributes, framing) and access(5) (actions). Where they
 * leave room, what Postfix 3.7 does; where this differs, it is said here.
 */
#ifndef HOOK_POLICY_WIRE_H
#define HOOK_POLICY_WIRE_H

#include "engine/smtp/local.h"

/* ---- the request ---- */

/* X(id, name on the wire). A message that comes by BDAT is at DATA, too. */
#define POLICY_STATES(X)                   \
	X(POLICY_AT_CONNECT, "CONNECT")    \
	X(POLICY_AT_EHLO, "EHLO")          \
	X(POLICY_AT_HELO, "HELO")          \
	X(POLICY_AT_MAIL, "MAIL")          \
	X(POLICY_AT_RCPT, "RCPT")          \
	X(POLICY_AT_DATA, "DATA")          \
	X(POLICY_AT_EOM, "END-OF-MESSAGE") \
	X(POLICY_AT_VRFY, "VRFY")          \
	X(POLICY_AT_ETRN, "ETRN")

enum policy_state {
#define X(id, name) id,
	POLICY_STATES(X)
#undef X
		POLICY_STATE_COUNT
};

/* In which states an attribute has a value. */
enum policy_states {
	POLICY_IN_ANY = (1 << POLICY_STATE_COUNT) - 1,
	POLICY_IN_TALK = POLICY_IN_ANY & ~(1 << POLICY_AT_CONNECT),
	POLICY_IN_BODY = 1 << POLICY_AT_DATA | 1 << POLICY_AT_EOM,
	POLICY_IN_RCPT = POLICY_IN_BODY | 1 << POLICY_AT_RCPT | 1 << POLICY_AT_VRFY,
	POLICY_IN_TXN = POLICY_IN_RCPT | 1 << POLICY_AT_MAIL, /* VRFY may come amid one */
	POLICY_IN_ETRN = 1 << POLICY_AT_ETRN,
};

/* X(name, kind, states): every attribute, in the order of the wire (which has no meaning).
 *  FIXED   always the same, no member
 *  STATE   enum policy_state
 *  TEXT    struct span, borrowed for the call; empty = unknown
 *  NUMBER  uint64_t, decimal on the wire; 0 = unknown
 * Postfix sends all of them in every state: empty or 0 without a value, or in a state that is not
 * in the last column, whatever the member holds. tls_sni came with Postfix 3.12, the ports and
 * server_address with 3.x; older servers ignore what they do not know. */
#define POLICY_ATTRIBUTES(X)                                                                      \
	X(request, FIXED, POLICY_IN_ANY)                                                          \
	X(protocol_state, STATE, POLICY_IN_ANY)                                                   \
	X(protocol_name, TEXT, POLICY_IN_ANY)  /* ESMTP or SMTP */                                \
	X(client_address, TEXT, POLICY_IN_ANY) /* without brackets or "IPv6:" */                  \
	X(client_name, TEXT, POLICY_IN_ANY)    /* "unknown" when not verified */                  \
	X(client_port, NUMBER, POLICY_IN_ANY)                                                     \
	X(reverse_client_name, TEXT, POLICY_IN_ANY)                                               \
	X(server_address, TEXT, POLICY_IN_ANY)                                                    \
	X(server_port, NUMBER, POLICY_IN_ANY)                                                     \
	X(helo_name, TEXT, POLICY_IN_TALK)                                                        \
	X(sender, TEXT, POLICY_IN_TXN)		   /* without brackets; empty: <> */              \
	X(recipient, TEXT, POLICY_IN_RCPT)	   /* DATA, END-OF-MESSAGE: of the only one */    \
	X(recipient_count, NUMBER, POLICY_IN_BODY) /* accepted ones */                            \
	X(queue_id, TEXT, POLICY_IN_TXN)                                                          \
	X(instance, TEXT, POLICY_IN_ANY) /* the same for all requests about one message */        \
	X(size, NUMBER, POLICY_IN_TXN) /* octets: MAIL's SIZE=, at END-OF-MESSAGE the real one */ \
	X(etrn_domain, TEXT, POLICY_IN_ETRN)                                                      \
	X(stress, TEXT, POLICY_IN_ANY) /* "yes" or empty */                                       \
	X(sasl_method, TEXT, POLICY_IN_TALK)                                                      \
	X(sasl_username, TEXT, POLICY_IN_TALK)                                                    \
	X(sasl_sender, TEXT, POLICY_IN_TXN)   /* MAIL's AUTH= */                                  \
	X(ccert_subject, TEXT, POLICY_IN_ANY) /* the caller encodes as xtext */                   \
	X(ccert_issuer, TEXT, POLICY_IN_ANY)                                                      \
	X(ccert_fingerprint, TEXT, POLICY_IN_ANY)                                                 \
	X(ccert_pubkey_fingerprint, TEXT, POLICY_IN_ANY)                                          \
	X(encryption_protocol, TEXT, POLICY_IN_ANY)                                               \
	X(encryption_cipher, TEXT, POLICY_IN_ANY)                                                 \
	X(encryption_keysize, NUMBER, POLICY_IN_ANY) /* bits */                                   \
	X(policy_context, TEXT, POLICY_IN_ANY)                                                    \
	X(compatibility_level, TEXT, POLICY_IN_ANY)                                               \
	X(mail_version, TEXT, POLICY_IN_ANY)                                                      \
	X(tls_sni, TEXT, POLICY_IN_ANY)

#define POLICY_MEMBER_FIXED(name)
#define POLICY_MEMBER_STATE(name) enum policy_state name;
#define POLICY_MEMBER_TEXT(name) struct span name;
#define POLICY_MEMBER_NUMBER(name) uint64_t name;

/* Zeroed: nothing is known, at CONNECT. */
struct policy_request {
#define X(name, kind, states) POLICY_MEMBER_##kind(name)
	POLICY_ATTRIBUTES(X)
#undef X
};

/* Octets of a value. A longer TEXT is cut to POLICY_TEXT_VALUE_BYTES_MAX; what smtp_path_parse()
 * takes never is. */
#define POLICY_FIXED_VALUE "smtpd_access_policy"
#define POLICY_FIXED_VALUE_BYTES_MAX (sizeof(POLICY_FIXED_VALUE) - 1)
#define POLICY_STATE_VALUE_BYTES_MAX (sizeof("END-OF-MESSAGE") - 1)
#define POLICY_TEXT_VALUE_BYTES_MAX 1024
#define POLICY_NUMBER_VALUE_BYTES_MAX 20

/* No request is longer. The name's NUL stands for the LF. */
enum {
	POLICY_REQUEST_BYTES_MAX = 1
#define X(name, kind, states) +sizeof(#name "=") + POLICY_##kind##_VALUE_BYTES_MAX
	POLICY_ATTRIBUTES(X)
#undef X
};

/* Writes "name=value" lines, each with LF, and an empty line into out[0..max). Returns its length;
 * 0 when it does not fit (then what out[0..max) holds is of no use), which is never so with
 * POLICY_REQUEST_BYTES_MAX. Control octets and DEL in a value are written as '?', as the frame has
 * no way to escape them; octets above 127 stay (RFC 6531 addresses). */
size_t policy_write(const struct policy_request *r, uint8_t *out, size_t max);

/* ---- the reply ---- */

#define POLICY_REPLY_BYTES_MAX 4096 /* with the empty line; ours, Postfix takes 2048 a line */
#define POLICY_HEADER_BYTES_MAX 998 /* PREPEND; RFC 5322 2.1.1, without CRLF */
#define POLICY_ENHANCED_BYTES_MAX 9 /* RFC 3463: "5.999.999" */
#define POLICY_TEXT_BYTES_MAX \
	(LOCAL_REPLY_BYTES_MAX - 1 - 4 - POLICY_ENHANCED_BYTES_MAX - 1 - 2) /* 495 */

enum policy_res {
	POLICY_MORE,	    /* no end yet, and still within the limit */
	POLICY_OK,	    /* *used and *out are set */
	POLICY_NO_ACTION,   /* ended, but without "action=" (the name in lower case) */
	POLICY_NO_PAIR,	    /* a line that is not name=value with a name */
	POLICY_TWO_ACTIONS, /* even when they say the same */
	POLICY_NUL,
	POLICY_TOO_LONG, /* POLICY_REPLY_BYTES_MAX */
};
const char *policy_res_text(enum policy_res r);

/* What to do. Refusals have code, enhanced and text set. */
enum policy_kind {
	POLICY_PASS,		/* OK RELAY PERMIT DUNNO, digits alone, nothing at all */
	POLICY_REJECT,		/* 554 5.7.1 unless said otherwise */
	POLICY_TEMPFAIL,	/* DEFER: 450 4.7.1 */
	POLICY_DEFER_IF_PERMIT, /* 450 4.7.1, if nothing later refuses for good */
	POLICY_DEFER_IF_REJECT, /* goes on; 450 4.7.1 instead of a later refusal for good */
	POLICY_CODE,		/* 4NN or 5NN; behind 421 and 521 Postfix closes the connection */
	POLICY_DISCARD,		/* say that it was delivered, and deliver it to nobody */
	POLICY_PREPEND,	    /* `header` before the message; goes on. Too late at END-OF-MESSAGE */
	POLICY_WARN,	    /* to be logged; goes on */
	POLICY_INFO,	    /* likewise */
	POLICY_UNSUPPORTED, /* `name`: HOLD FILTER REDIRECT BCC DELAY, which need a queue */
	POLICY_BAD_HEADER,  /* PREPEND of something that is not a header; Postfix warns, goes on */
	POLICY_UNKNOWN,	    /* among them names of restrictions, which Postfix would evaluate; at a
			       name unknown to it, it answers 451 4.3.5 */
};

/* Spans point into what was read and live as long as that. */
struct policy_reply {
	enum policy_kind kind;
	const char *name;     /* of a known action, in upper case, static; else "" */
	struct span word;     /* the action as it was sent; may be empty */
	struct span argument; /* behind it, without blanks around; raw: any octet but NUL and LF */
	struct span header;   /* PREPEND: one line without its end, "name: value" */
	bool header_8bit;     /* it has octets above 127 */
	uint16_t code;	      /* 400..599 for refusals, else 0 */
	char enhanced[POLICY_ENHANCED_BYTES_MAX + 1]; /* of the code's class; "" without a code */
	char text[POLICY_TEXT_BYTES_MAX + 1];
};

/* Reads one reply. `in` starts where the reply starts and holds everything received of it so far;
 * nothing is kept between calls, so after POLICY_MORE call again with more. On POLICY_OK *used is
 * its length, empty line included; in all other cases it is 0, and *out is not touched. The result
 * depends on the octets, not on the pieces they came in, and comes with the octet that decides it.
 * After a malformed one the connection is out of step.
 *
 * Lines end with LF; a CR before it is dropped. Attributes other than action are ignored. Actions
 * are matched in any ASCII case. `text` is for a reply's line or the log: printable ASCII, any
 * other octet written as '?', cut to POLICY_TEXT_BYTES_MAX, so that code, enhanced code, text and
 * CRLF stay below LOCAL_REPLY_BYTES_MAX. Never empty for refusals; else what was sent, if anything.
 *
 * An enhanced code in front of a refusal's text is taken from there when its class is the code's;
 * otherwise it stays text, and enhanced is the default (4.7.1 or 5.7.1).
 *
 * Digits alone pass, be they "550", as in access(5). "550" and a blank is a code without a text
 * here: what a server makes of an empty reason; Postfix would take it for a restriction's name. */
enum policy_res policy_read(struct span in, size_t *used, struct policy_reply *out);

#endif
