/* SPDX-License-Identifier: MIT */
#ifndef MQFS_RECORDS_H
#define MQFS_RECORDS_H

#include <stdint.h>

#include <mqfs/backend.h>
#include <mqfs/delivery.h>
#include <mqfs/state.h>

/*
 * What this host remembers of single copies of messages, in the state file:
 *
 *   outcomes (C9)  what was decided about a claim whose connection was lost, until the broker redelivers that very
 *                  copy to this host, or settled-ttl is over;
 *   takes (R6)     that a copy was taken and not settled: a handler that kills its reader, mqfs or the host each time
 *                  is counted all the same.
 *
 * A copy is known by queue, message-id and mqfs-copy (absent equals absent). One without message-id has no outcome
 * ever; its takes are counted by a digest of its body, and messages of one body count as one: what they took together
 * while one mount lived is one take, and each that is settled clears them all.
 *
 * All functions are thread-safe and none blocks, but for open and close; the caller may hold a lock. What is asked for
 * is done in that order, on the state's thread, where completions run, with no lock held. Disk that fails costs a
 * record, which the log says, and never a message: without it the copy is handed out once more.
 */
struct mqfs_records;

enum mqfs_outcome {
	MQFS_OUTCOME_NONE,
	MQFS_OUTCOME_ACK, /* done: acknowledge it when it comes back */
	MQFS_OUTCOME_RETRY,
	MQFS_OUTCOME_BURY,
};

struct mqfs_record {
	enum mqfs_outcome outcome;
	const char *error; /* RETRY, BURY: the reason; may be NULL */
	int64_t takes;     /* of this copy, unsettled, by this host */
};

/* Which copy: strings of its message, or of the caller's. */
struct mqfs_copy_name {
	const char *queue;
	const char *message_id; /* NULL or "": it has no name */
	const char *copy;       /* NULL: absent */
};
struct mqfs_copy_name mqfs_copy_name(const struct mqfs_delivery *delivery);

/* ttl_ms: settled-ttl. NULL: out of memory. */
struct mqfs_records *mqfs_records_open(struct mqfs_state *state, int64_t ttl_ms);
/* Waits for what was asked for. Nothing may be asked for any more. NULL is fine. */
void mqfs_records_close(struct mqfs_records *records);

/*
 * Replaces an earlier outcome of the same copy, which must have a message-id; with NONE it goes. 0: done (may be NULL)
 * runs, with 0 when it is on the disk, else -ENOSPC, -EIO, …; -ENOMEM: it does not.
 */
int mqfs_records_decide(struct mqfs_records *records, const struct mqfs_copy_name *name, enum mqfs_outcome outcome,
                        const char *error, mqfs_done_fn *done, void *arg);

/* One take more, now. The delivery is referred to until that is on the disk, as below. */
void mqfs_records_take(struct mqfs_records *records, struct mqfs_delivery *delivery);
/* One less: it was given back, uncounted. */
void mqfs_records_give_back(struct mqfs_records *records, struct mqfs_delivery *delivery);
/* The copy is settled: its outcome and its takes go. */
void mqfs_records_forget(struct mqfs_records *records, struct mqfs_delivery *delivery);

/* What is known of a redelivered copy, also from other mounts of this host and before a restart. record is valid during
 * the call only; result < 0: the disk could not be read, and record is empty. Returns as decide does. */
typedef void mqfs_records_fn(void *arg, int result, const struct mqfs_record *record);
int mqfs_records_find(struct mqfs_records *records, struct mqfs_delivery *delivery, mqfs_records_fn *done, void *arg);

#endif
