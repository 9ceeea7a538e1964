/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The milter protocol, versions 2 to 6, as a mail server speaks it: packets to the filter, packets
 * from it, and what both agreed on. Pure: no socket, no clock, no allocation; any thread.
 *
 * A packet is a length (32 bits, big endian, of all that follows), a command octet, a payload.
 * Strings end with a NUL. There is no standard: the rules are those of libmilter (its mfdef.h is
 * what everybody's numbers come from), of Sendmail and Postfix on our side, and what opendkim,
 * rspamd and clamav-milter were seen to do. Each rule below says which.
 *
 * Ownership: whatever is built goes into the caller's buffer; every span of what was read points
 * into the caller's input and is valid as long as that is.
 *
 * Failure modes: what does not fit is false and leaves the buffer as it was; what a filter must not
 * send is a typed result (MILTER_RESULTS). After any of those the connection to the filter is of no
 * more use: nobody knows what the filter meant, and the caller does what its configuration says
 * about a filter that fails.
 */
#ifndef HOOK_MILTER_WIRE_H
#define HOOK_MILTER_WIRE_H

#include "ring/ring.h"

#define MILTER_VERSION 6
#define MILTER_VERSION_MIN 2 /* Sendmail's; rspamd takes 6 only */
#define MILTER_HEAD_BYTES 5  /* the length and the command */
/* Of a payload. libmilter hangs up on more, unless both sides agreed on larger ones with protocol
 * bits 28 and 29; we never offer those. */
#define MILTER_DATA_BYTES_MAX 65535
#define MILTER_LINES_MAX 32	  /* of a filter's reply, and the text of each: what */
#define MILTER_TEXT_BYTES_MAX 980 /* libmilter lets a filter set */

/* ---- names and numbers ---- */

/* X(id, letter, name): commands, ours to the filter. */
#define MILTER_COMMANDS(X)                        \
	X(MILTER_C_OPTNEG, 'O', "negotiate")      \
	X(MILTER_C_MACRO, 'D', "macros")          \
	X(MILTER_C_CONNECT, 'C', "connect")       \
	X(MILTER_C_HELO, 'H', "helo")             \
	X(MILTER_C_MAIL, 'M', "mail")             \
	X(MILTER_C_RCPT, 'R', "rcpt")             \
	X(MILTER_C_DATA, 'T', "data")             \
	X(MILTER_C_HEADER, 'L', "header")         \
	X(MILTER_C_EOH, 'N', "end-of-headers")    \
	X(MILTER_C_BODY, 'B', "body")             \
	X(MILTER_C_EOB, 'E', "end-of-body")       \
	X(MILTER_C_ABORT, 'A', "abort")           \
	X(MILTER_C_QUIT, 'Q', "quit")             \
	X(MILTER_C_QUIT_NC, 'K', "quit-continue") \
	X(MILTER_C_UNKNOWN, 'U', "unknown")

enum milter_command {
#define X(id, letter, name) id = (letter),
	MILTER_COMMANDS(X)
#undef X
};

/* What filters may do to a message; they ask for some of what is offered. X(id, bit, name) */
#define MILTER_ACTIONS(X)                                      \
	X(MILTER_A_ADDHDRS, 0, "add-headers")                  \
	X(MILTER_A_CHGBODY, 1, "replace-body")                 \
	X(MILTER_A_ADDRCPT, 2, "add-rcpt")                     \
	X(MILTER_A_DELRCPT, 3, "delete-rcpt")                  \
	X(MILTER_A_CHGHDRS, 4, "change-headers")               \
	X(MILTER_A_QUARANTINE, 5, "quarantine")                \
	X(MILTER_A_CHGFROM, 6, "change-sender")                \
	X(MILTER_A_ADDRCPT_PAR, 7, "add-rcpt-with-parameters") \
	X(MILTER_A_SETSYMLIST, 8, "set-macros")

/* How they want to be spoken to: NO* steps they do not want to hear of, NR_* steps they send no
 * reply to. X(id, bit, name) */
#define MILTER_PROTOCOLS(X)                               \
	X(MILTER_P_NOCONNECT, 0, "no-connect")            \
	X(MILTER_P_NOHELO, 1, "no-helo")                  \
	X(MILTER_P_NOMAIL, 2, "no-mail")                  \
	X(MILTER_P_NORCPT, 3, "no-rcpt")                  \
	X(MILTER_P_NOBODY, 4, "no-body")                  \
	X(MILTER_P_NOHDRS, 5, "no-headers")               \
	X(MILTER_P_NOEOH, 6, "no-end-of-headers")         \
	X(MILTER_P_NR_HDR, 7, "no-header-reply")          \
	X(MILTER_P_NOUNKNOWN, 8, "no-unknown")            \
	X(MILTER_P_NODATA, 9, "no-data")                  \
	X(MILTER_P_SKIP, 10, "skip")                      \
	X(MILTER_P_RCPT_REJ, 11, "rejected-rcpts")        \
	X(MILTER_P_NR_CONN, 12, "no-connect-reply")       \
	X(MILTER_P_NR_HELO, 13, "no-helo-reply")          \
	X(MILTER_P_NR_MAIL, 14, "no-mail-reply")          \
	X(MILTER_P_NR_RCPT, 15, "no-rcpt-reply")          \
	X(MILTER_P_NR_DATA, 16, "no-data-reply")          \
	X(MILTER_P_NR_UNKN, 17, "no-unknown-reply")       \
	X(MILTER_P_NR_EOH, 18, "no-end-of-headers-reply") \
	X(MILTER_P_NR_BODY, 19, "no-body-reply")          \
	X(MILTER_P_HDR_LEADSPC, 20, "leading-space")

enum milter_action {
#define X(id, bit, name) id = 1 << (bit),
	MILTER_ACTIONS(X)
#undef X
};
enum milter_protocol {
#define X(id, bit, name) id = 1 << (bit),
	MILTER_PROTOCOLS(X)
#undef X
};

/* X(id, letter, name, when, action): packets from the filter. `when`: which steps they may answer
 * (see milter_reply_check). `action`: the bit that must have been agreed on. */
#define MILTER_REPLIES(X)                                                                   \
	X(MILTER_R_OPTNEG, 'O', "negotiate", NEVER, 0)                                      \
	X(MILTER_R_CONTINUE, 'c', "continue", ANY, 0)                                       \
	X(MILTER_R_ACCEPT, 'a', "accept", ANY, 0)                                           \
	X(MILTER_R_DISCARD, 'd', "discard", MESSAGE, 0)                                     \
	X(MILTER_R_REJECT, 'r', "reject", ANY, 0)                                           \
	X(MILTER_R_TEMPFAIL, 't', "tempfail", ANY, 0)                                       \
	X(MILTER_R_CODE, 'y', "reply-code", ANY, 0)                                         \
	X(MILTER_R_CONNFAIL, 'f', "connection-failure", ANY, 0)                             \
	X(MILTER_R_SHUTDOWN, '4', "shutdown", ANY, 0)                                       \
	X(MILTER_R_SKIP, 's', "skip", BODY, 0)                                              \
	X(MILTER_R_PROGRESS, 'p', "progress", ANY, 0)                                       \
	X(MILTER_R_ADDRCPT, '+', "add-rcpt", END, MILTER_A_ADDRCPT)                         \
	X(MILTER_R_ADDRCPT_PAR, '2', "add-rcpt-with-parameters", END, MILTER_A_ADDRCPT_PAR) \
	X(MILTER_R_DELRCPT, '-', "delete-rcpt", END, MILTER_A_DELRCPT)                      \
	X(MILTER_R_CHGFROM, 'e', "change-sender", END, MILTER_A_CHGFROM)                    \
	X(MILTER_R_ADDHEADER, 'h', "add-header", END, MILTER_A_ADDHDRS)                     \
	X(MILTER_R_INSHEADER, 'i', "insert-header", END, MILTER_A_ADDHDRS)                  \
	X(MILTER_R_CHGHEADER, 'm', "change-header", END, MILTER_A_CHGHDRS)                  \
	X(MILTER_R_REPLBODY, 'b', "replace-body", END, MILTER_A_CHGBODY)                    \
	X(MILTER_R_QUARANTINE, 'q', "quarantine", END, MILTER_A_QUARANTINE)

enum milter_reply_kind {
#define X(id, letter, name, when, action) id = (letter),
	MILTER_REPLIES(X)
#undef X
};

/* X(id, command, no, nr, since): the steps of a session that filters hear of, in their order, with
 * the bits by which they decline the step or the reply, and the version that brought it (Sendmail
 * does not send a step to filters older than that). */
#define MILTER_STEPS(X)                                                                 \
	X(MILTER_AT_CONNECT, MILTER_C_CONNECT, MILTER_P_NOCONNECT, MILTER_P_NR_CONN, 2) \
	X(MILTER_AT_HELO, MILTER_C_HELO, MILTER_P_NOHELO, MILTER_P_NR_HELO, 2)          \
	X(MILTER_AT_MAIL, MILTER_C_MAIL, MILTER_P_NOMAIL, MILTER_P_NR_MAIL, 2)          \
	X(MILTER_AT_RCPT, MILTER_C_RCPT, MILTER_P_NORCPT, MILTER_P_NR_RCPT, 2)          \
	X(MILTER_AT_DATA, MILTER_C_DATA, MILTER_P_NODATA, MILTER_P_NR_DATA, 4)          \
	X(MILTER_AT_HEADER, MILTER_C_HEADER, MILTER_P_NOHDRS, MILTER_P_NR_HDR, 2)       \
	X(MILTER_AT_EOH, MILTER_C_EOH, MILTER_P_NOEOH, MILTER_P_NR_EOH, 2)              \
	X(MILTER_AT_BODY, MILTER_C_BODY, MILTER_P_NOBODY, MILTER_P_NR_BODY, 2)          \
	X(MILTER_AT_EOB, MILTER_C_EOB, 0, 0, 2)                                         \
	X(MILTER_AT_UNKNOWN, MILTER_C_UNKNOWN, MILTER_P_NOUNKNOWN, MILTER_P_NR_UNKN, 3)

enum milter_step {
#define X(id, command, no, nr, since) id,
	MILTER_STEPS(X)
#undef X
		MILTER_STEP_COUNT
};

/* What a filter's lists of macros are for. The numbers go over the wire. */
enum milter_stage {
	MILTER_M_CONNECT = 0,
	MILTER_M_HELO = 1,
	MILTER_M_MAIL = 2,
	MILTER_M_RCPT = 3,
	MILTER_M_DATA = 4,
	MILTER_M_EOB = 5,
	MILTER_M_EOH = 6,
	MILTER_STAGE_COUNT
};

enum milter_family {
	MILTER_F_UNKNOWN = 'U', /* no port, no address */
	MILTER_F_UNIX = 'L',
	MILTER_F_IPV4 = '4',
	MILTER_F_IPV6 = '6',
};

/* X(id, text): what comes of reading. */
#define MILTER_RESULTS(X)                                                               \
	X(MILTER_OK, "packet")                                                          \
	X(MILTER_MORE, "incomplete packet")                                             \
	X(MILTER_EMPTY, "packet without a command")                                     \
	X(MILTER_LONG, "packet too long")                                               \
	X(MILTER_BAD_COMMAND, "packet of an unknown kind")                              \
	X(MILTER_SHORT, "packet ends within a number")                                  \
	X(MILTER_NO_NUL, "string without an end")                                       \
	X(MILTER_TRAILING, "octets behind the end of a packet's contents")              \
	X(MILTER_BAD_CODE, "reply code is not 4xx or 5xx")                              \
	X(MILTER_MIXED_CODES, "reply changes its code between lines")                   \
	X(MILTER_BAD_LINES, "lines of a reply do not continue each other, or too many") \
	X(MILTER_LONG_LINE, "line of a reply too long")                                 \
	X(MILTER_BAD_OCTET, "control octet in a text")                                  \
	X(MILTER_BAD_ADDRESS, "not an address")                                         \
	X(MILTER_BAD_PARAM, "not ESMTP parameters")                                     \
	X(MILTER_BAD_NAME, "not a name of a header field")                              \
	X(MILTER_BAD_VALUE, "value would end its header field")                         \
	X(MILTER_BAD_INDEX, "no such index of a header field")                          \
	X(MILTER_UNEXPECTED, "no such reply to this step")                              \
	X(MILTER_NOT_AGREED, "action that was not agreed on")

enum milter_res {
#define X(id, text) id,
	MILTER_RESULTS(X)
#undef X
		MILTER_RES_COUNT
};

/* For logs; static. NULL: there is none of that letter. */
const char *milter_command_name(uint8_t letter);
const char *milter_reply_name(uint8_t letter);
const char *milter_res_text(enum milter_res r);
/* Of the lowest bit that is set; "unknown" for bits without a name and for none. */
const char *milter_action_name(uint32_t bits);
const char *milter_protocol_name(uint32_t bits);

/* ---- what is agreed on ---- */

/* What a listener can do for its filters, by what it has of the message when the filter decides.
 * MILTER_STREAM: nothing is kept, a filter can only refuse. MILTER_HOLD_END: all but the message's
 * end went upstream; a filter can refuse late, or quarantine (clamav-milter hangs up when that is
 * not offered). A header field cannot be put in front any more: the first octets left long ago.
 * MILTER_HOLD_ALL: everything. In all of them filters may name their macros: that changes no
 * message. */
enum milter_mode { MILTER_STREAM, MILTER_HOLD_END, MILTER_HOLD_ALL };

struct milter_offer {
	uint32_t version, actions, protocol;
};

/* MILTER_P_RCPT_REJ is not offered: it would have us send recipients that were refused. */
struct milter_offer milter_offer_for(enum milter_mode mode);

/* The filter's answer to it. */
struct milter_optneg {
	uint32_t version, actions, protocol;
	/* Names of macros with blanks or commas between them. p == NULL: no list for this stage,
	 * send the usual ones; an empty list asks for none. Of two for a stage the last one counts;
	 * those for other stages are left out (Postfix does so too). */
	struct span macros[MILTER_STAGE_COUNT];
};

/* What counts from then on. All zero: a filter that wants no step at all. */
struct milter_neg {
	uint32_t version, actions, protocol;
};

enum milter_neg_res {
	MILTER_NEG_OK,
	MILTER_NEG_OLD,	     /* below MILTER_VERSION_MIN */
	MILTER_NEG_NEW,	     /* above what we offered */
	MILTER_NEG_ACTION,   /* asks for actions that this mode does not have */
	MILTER_NEG_PROTOCOL, /* asks for protocol bits that were not offered */
};

/* On MILTER_NEG_ACTION and _PROTOCOL *refused are the bits that are too many, else 0; *out is set
 * only on MILTER_NEG_OK. Sendmail's rules. */
enum milter_neg_res milter_negotiate(const struct milter_offer *offer,
	const struct milter_optneg *answer, struct milter_neg *out, uint32_t *refused);

bool milter_wants(const struct milter_neg *neg, enum milter_step step);
/* Wants the step and replies to it. Without that, waiting for a reply is waiting for ever (rspamd
 * replies to nothing but the end of body). */
bool milter_replies(const struct milter_neg *neg, enum milter_step step);
/* May answer a body chunk with MILTER_R_SKIP: it has seen enough of the body. */
static inline bool milter_skips(const struct milter_neg *neg)
{
	return (neg->protocol & MILTER_P_SKIP) != 0;
}
/* Values of header fields come and go with the blank behind the colon. Else one space is taken off
 * on the way to the filter, and one is to be put before a value that comes from it. */
static inline bool milter_keeps_space(const struct milter_neg *neg)
{
	return (neg->protocol & MILTER_P_HDR_LEADSPC) != 0;
}

/* ---- packets to the filter ---- */

/* Packets are appended to p[0..n). Each call that returns true has written one whole packet and
 * moved n; one that returns false has not moved n (what is behind n is rubbish then). In both cases
 * `need` is the packet's length in octets. False: max - n is less than that, or the payload is
 * above MILTER_DATA_BYTES_MAX and no buffer would help.
 * A NUL within a string would end it early and shift all that follows: it is sent as '?'. */
struct milter_out {
	uint8_t *p;
	size_t max, n, need;
};

struct milter_macro {
	struct span name; /* as on the wire: one octet, or a word in braces: "i", "{mail_addr}" */
	struct span value;
};

/* Commands without a payload: DATA, EOH, EOB, ABORT, QUIT, QUIT_NC (which only filters of version 6
 * know). No reply comes to the last three. Others are programming errors. */
bool milter_put(struct milter_out *o, enum milter_command cmd) MUST_USE;
bool milter_put_optneg(struct milter_out *o, const struct milter_offer *offer) MUST_USE;
/* Goes right before the packet of `cmd`, whether the filter wants that one or not (as Postfix
 * does); never replied to. */
bool milter_put_macros(struct milter_out *o, enum milter_command cmd,
	const struct milter_macro *macros, size_t count) MUST_USE;
/* `host`: the client's name, or its address in brackets. An IPv4 address mapped into IPv6 goes as
 * IPv4, a nameless Unix socket as unknown, one of an abstract name with '?' for its NUL. */
bool milter_put_connect(
	struct milter_out *o, struct span host, const struct ring_addr *client) MUST_USE;
/* The same from parts. port: host byte order; it and `address` go for nothing when unknown. */
bool milter_put_connect_text(struct milter_out *o, struct span host, enum milter_family family,
	uint16_t port, struct span address) MUST_USE;
bool milter_put_helo(struct milter_out *o, struct span name) MUST_USE;
/* `mailbox` without brackets, empty for the null sender; `params` with blanks between them, as
 * smtp_path has both. Each is a string of its own on the wire, the mailbox in brackets. */
bool milter_put_mail(struct milter_out *o, struct span mailbox, struct span params) MUST_USE;
bool milter_put_rcpt(struct milter_out *o, struct span mailbox, struct span params) MUST_USE;
/* `value`: all that is between the colon and the field's last line end. Its CRLFs go as LF, and
 * without the leading-space bit its first octet is left out when it is a space (a tab is not). */
bool milter_put_header(struct milter_out *o, const struct milter_neg *neg, struct span name,
	struct span value) MUST_USE;
/* Only the head of a chunk: 1 to 65,535 octets of body must follow it. */
bool milter_put_body_head(struct milter_out *o, size_t octets) MUST_USE;
/* A command line that is none of SMTP's. */
bool milter_put_unknown(struct milter_out *o, struct span line) MUST_USE;

/* ---- packets from the filter ---- */

struct milter_packet {
	uint8_t kind; /* enum milter_reply_kind */
	struct span payload;
};

/* `in` starts where a packet starts and holds what was received of it so far, or more. MILTER_OK:
 * *used octets are the packet. MILTER_MORE: come again with more. Else malformed: MILTER_EMPTY,
 * MILTER_LONG (more than `max` octets of payload, or more than MILTER_DATA_BYTES_MAX for anything
 * but MILTER_R_REPLBODY), MILTER_BAD_COMMAND; said as soon as the head is there. The result does
 * not depend on the pieces that the octets came in. */
enum milter_res milter_read(
	struct span in, size_t max, struct milter_packet *out, size_t *used) MUST_USE;

/* A MILTER_R_OPTNEG packet (any other: MILTER_UNEXPECTED). */
enum milter_res milter_optneg_parse(
	const struct milter_packet *packet, struct milter_optneg *out) MUST_USE;
/* Iterates a list of macros: *rest starts as optneg.macros[]. `name` as in milter_macro. */
bool milter_macro_next(struct span *rest, struct span *name);

/* The text of a MILTER_R_CODE, one or more lines of the same code. */
struct milter_code {
	uint16_t code;	 /* 400 to 599 */
	uint16_t lines;	 /* 1 to MILTER_LINES_MAX */
	struct span raw; /* all of them, for milter_line_next */
};
/* `enhanced`: "5.7.1", or empty. One of another class than the reply's (libmilter lets filters say
 * "550 4.7.1") is text. `text` is escaped: see milter_unescape. */
struct milter_line {
	struct span enhanced, text;
};
bool milter_line_next(struct span *rest, struct milter_line *out);
/* "%%" becomes "%" (libmilter has filters write it so); a single one stays. Returns the length of
 * the result, and writes as much of it as fits into out[0..max). Never longer than `text`. */
size_t milter_unescape(struct span text, uint8_t *out, size_t max);

/* An envelope address, read as smtp_path_parse reads one. */
struct milter_address {
	bool null;	     /* <> (MILTER_R_CHGFROM only) */
	struct span mailbox; /* without brackets and source route */
	struct span params;  /* ESMTP parameters with blanks between them, checked by syntax and by
				value; empty when the packet has none */
};

/* Name and value as edits.h has them; see milter_keeps_space. libmilter says LF between lines, and
 * there are filters that say CRLF. Other control octets stay: subjects have them. */
struct milter_field {
	uint32_t index; /* INSHEADER: fields before it, 0 is the top; CHGHEADER: which field of that
			   name, from 1; else 0 */
	struct span name, value; /* CHGHEADER: an empty value deletes the field */
};

struct milter_reply {
	enum milter_reply_kind kind;
	union {
		struct milter_code code;       /* CODE */
		struct milter_address address; /* ADDRCPT, ADDRCPT_PAR, DELRCPT, CHGFROM */
		struct milter_field field;     /* ADDHEADER, INSHEADER, CHGHEADER */
		struct span body;   /* REPLBODY: any octets; further chunks go behind it */
		struct span reason; /* QUARANTINE: one line, may be empty */
	};
};

/* Any packet but MILTER_R_OPTNEG (MILTER_UNEXPECTED). *out is set only on MILTER_OK. */
enum milter_res milter_reply_parse(
	const struct milter_packet *packet, struct milter_reply *out) MUST_USE;

/* May this reply come to that step? MILTER_OK, MILTER_UNEXPECTED or MILTER_NOT_AGREED. Changes
 * come only to EOB, MILTER_R_SKIP only to BODY and when agreed on, MILTER_R_DISCARD only when there
 * is a message (libmilter's manual), and nothing to a step that is not replied to. */
enum milter_res milter_reply_check(
	const struct milter_neg *neg, enum milter_step step, enum milter_reply_kind kind) MUST_USE;
/* True when the step is answered by it; behind progress and changes more will come. */
bool milter_reply_final(enum milter_reply_kind kind);

#endif
