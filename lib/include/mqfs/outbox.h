/* SPDX-License-Identifier: MIT */
#ifndef MQFS_OUTBOX_H
#define MQFS_OUTBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <mqfs/backend.h>
#include <mqfs/message.h>
#include <mqfs/name.h>
#include <mqfs/settings.h>
#include <mqfs/state.h>

/*
 * Drafts that outlive the process (P6, P7): messages in the line to a broker that is away, those that were refused, and
 * the unfinished. Kept in the state file; what is WAITING is sent, in the order of its queue's line, when the broker
 * takes messages again, with the same message-id. One mount of the host at a time sends a line (a lease in the file,
 * fenced as the embedded store's are); the others see what becomes of it.
 *
 *   put --> WAITING --(in flight)--> confirmed: gone
 *              ^          |--> away, blocked, unknown: WAITING again, at its old place
 *              |          '--> refused: KEPT, with the reason: it blocks nobody behind it
 *              '--- change --- KEPT, FILE
 *
 * Requests are asynchronous as the backend's are (backend.h): done runs exactly once, later, on the state's thread,
 * with no lock held, and 0 says that it is on the disk. Requests are done in the order in which they were made. All
 * functions are thread-safe and none blocks; they may be called with a lock held that done takes.
 */
struct mqfs_outbox;

enum mqfs_entry_kind {
	MQFS_ENTRY_WAITING, /* accepted: it will be sent */
	MQFS_ENTRY_KEPT,    /* not accepted: error and reason say why */
	MQFS_ENTRY_FILE,    /* an ordinary file (a dot-name) or an empty draft */
};

/* What is listed. The body is on the disk; load fetches it. */
struct mqfs_entry {
	int64_t id; /* never used again for another */
	enum mqfs_entry_kind kind;
	const char *queue;
	int priority; /* of its directory: N of new/@N/, -1 new/ */
	const char *name;
	mode_t mode;
	int64_t body_bytes;
	int64_t modified_us; /* real time */
	/* P3's delay. 0: none; positive, of what is WAITING: real time, not to be delivered before; negative, of what
	 * is not: so many us after it is sent. */
	int64_t due_us;
	bool spoiled;       /* half-written: can't be published */
	bool in_flight;     /* WAITING, and being sent just now */
	int error;          /* KEPT: errno, positive */
	const char *reason; /* KEPT: for people; may be NULL */
};

/*
 * Told of everything that changes, by whichever mount of this host, within about 250 ms, or a second when the outbox
 * was empty; on the state's thread, no lock held; it must not block. The strings are valid during the call only. After
 * open the entries of earlier mounts come as changed, before any other.
 *
 * This mount's own requests are told too, after their done has run. Each entry comes as it is at the time of the call,
 * so that a name may be told of one entry a moment before the entry that had it is told as renamed or removed; removed
 * may come for an id that was never told. That an entry is in flight is not told for itself.
 */
struct mqfs_outbox_watcher {
	void (*changed)(void *arg, const struct mqfs_entry *entry); /* a new one, or something of it is new */
	void (*removed)(void *arg, int64_t id, bool sent);          /* sent: the broker has confirmed it */
	/* The broker did not take one that was accepted: it is KEPT now. For the log and the alerts. */
	void (*refused)(void *arg, const struct mqfs_entry *entry);
};

/* Bounds, of the whole file. */
struct mqfs_outbox_limits {
	int64_t max_bytes; /* of all entries; beyond: -ENOSPC */
	int64_t publish_timeout_ms;
};

/*
 * Begins to send what waits. Blocks until the entries of earlier mounts were told to the watcher (on the state's
 * thread, so the caller holds no lock that the watcher takes). backend and state are used until close. 0 or a negative
 * errno.
 */
int mqfs_outbox_open(struct mqfs_state *state, struct mqfs_backend *backend, const struct mqfs_outbox_limits *limits,
                     const struct mqfs_outbox_watcher *watcher, void *arg, struct mqfs_outbox **ret_outbox);
/* Sends nothing more; what is in flight is waited for at most 2 s and stays WAITING if that was too short; leases end.
 * Requests are waited for at most 2 s; those that are not done then complete at the latest when the state is closed. No
 * function of the watcher runs after it. Not to be called on the state's thread. NULL is fine. */
void mqfs_outbox_close(struct mqfs_outbox *outbox);

/* result 0: it is on the disk, as id, with this name. Where another entry of the same queue and priority has the name
 * it is name~2, … (one more than the last twin; the name cut where it would become too long). */
typedef void mqfs_outbox_put_fn(void *arg, int result, int64_t id, const char *name);

/*
 * Adds entry (its id, body_bytes and in_flight are ignored) with its message, which is taken over; message_id is set
 * for what is to be WAITING. -ENOSPC: max_bytes (with some for each entry's rows), or the disk is full; -EROFS, -EIO,
 * -EINVAL (headers nested beyond reason), -ETIMEDOUT (deadline, monotonic), -ESHUTDOWN.
 */
void mqfs_outbox_put(struct mqfs_outbox *outbox, const struct mqfs_entry *entry, struct mqfs_message *message,
                     int64_t deadline_ms, mqfs_outbox_put_fn *done, void *arg);

/*
 * Changes entry->id to be what entry says (kind, queue, priority, name, mode, …); message replaces its message when not
 * NULL (taken over). What becomes WAITING goes to the end of its line; what was waiting in it already keeps its place,
 * unless it has another message now. -EBUSY when it is in flight, -ENOENT when it is
 * gone (sent, or removed by another mount).
 */
void mqfs_outbox_change(struct mqfs_outbox *outbox, const struct mqfs_entry *entry, struct mqfs_message *message,
                        int64_t deadline_ms, mqfs_outbox_put_fn *done, void *arg);

/* rm: takes it back. 0, -EBUSY in flight, -ENOENT gone. */
void mqfs_outbox_remove(struct mqfs_outbox *outbox, int64_t id, int64_t deadline_ms, mqfs_done_fn *done, void *arg);

/* message is the callee's. -ENOENT gone. */
typedef void mqfs_outbox_load_fn(void *arg, int result, struct mqfs_message *message);
void mqfs_outbox_load(struct mqfs_outbox *outbox, int64_t id, int64_t deadline_ms, mqfs_outbox_load_fn *done,
                      void *arg);

/* From memory, of this host: what waits for queue, or for all queues (NULL). */
struct mqfs_outbox_depth {
	int64_t messages;
	int64_t bytes;
	int64_t oldest_us; /* real time of the oldest, 0: none */
};
void mqfs_outbox_depth(struct mqfs_outbox *outbox, const char *queue, struct mqfs_outbox_depth *ret_depth);

#endif
