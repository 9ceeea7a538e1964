/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * io_uring constants newer than the liburing 2.3 headers of Debian 12. All of them are kernel ABI
 * (include/uapi/linux/io_uring.h) and never change; whether the running kernel knows one is found
 * by trying (feat.c), never by these names being here.
 */
#ifndef RING_UAPI_H
#define RING_UAPI_H

#include <liburing.h>

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

/* io_uring_buf_reg: `flags` took the place of `pad` in 6.4. An enum in newer headers: our names. */
#define URING_PBUF_RING_INC 2U		/* 6.12: a buffer is filled piece by piece */
#define URING_CQE_F_BUF_MORE (1U << 4)	/* 6.12: the kernel goes on filling this buffer */
#define URING_FEAT_NO_IOWAIT (1U << 17) /* 6.15 */
#define URING_ENTER_NO_IOWAIT (1U << 7) /* 6.15: an idle wait is not shown as iowait (U20) */

/* 6.17: sqe->optlen, the byte cap of a multishot receive: it ends with the piece that reaches the
 * cap. It shares its place with file_index, which kernels before refuse on a receive (-EINVAL), as
 * they do sqe->len on a multishot one: the probe relies on that. */
#define URING_SQE_OPTLEN(sqe) ((sqe)->file_index)

#endif
