/* SPDX-License-Identifier: MIT */
#ifndef MQFS_LOOK_H
#define MQFS_LOOK_H

#include <stdbool.h>
#include <stdint.h>

#include <mqfs/backend.h>
#include <mqfs/counters.h>
#include <mqfs/delivery.h>
#include <mqfs/settings.h>

/*
 * A look at the RETRY or DEAD messages of one queue (R4, R5). With a backend whose looks hold, the messages
 * are held for at most 5 s after the last access and 15 s in all, then put back and left alone for as long; the
 * listing stays answerable from memory meanwhile, and a settle during that time browses again for the one it wants.
 * With the other backends a look is a snapshot that is renewed when it is older than 0.2 s.
 *
 * Thread-safe; never blocks; no lock held while calling back. Lock order: fs's tree lock, then this one.
 */
struct mqfs_look;

struct mqfs_look *mqfs_look_new(struct mqfs_backend *backend, const char *queue, enum mqfs_place place,
                                const struct mqfs_settings *settings, struct mqfs_counters *counters);
/* Puts back what is held and answers who waits, with -ESHUTDOWN; the backend must still be open. free does so too, and
 * where that was done before it may follow when the backend is closed. */
void mqfs_look_end(struct mqfs_look *look);
void mqfs_look_free(struct mqfs_look *look);
void mqfs_look_configure(struct mqfs_look *look, const struct mqfs_settings *settings);

/*
 * Makes sure that the listing is as fresh as R5 allows. Returns 1 when it is (done is not called), 0 when
 * done will run, on any thread, at most 1 s later, with 0 or why the listing is old or empty (-EHOSTDOWN …; it can be
 * read all the same).
 */
int mqfs_look_refresh(struct mqfs_look *look, mqfs_done_fn *done, void *arg);

/* The next refresh browses, however fresh the listing is (unless what was held has just been put back). */
void mqfs_look_expire(struct mqfs_look *look);

/* each runs under the look's lock and must not call it. In order of name. */
void mqfs_look_list(struct mqfs_look *look, void (*each)(struct mqfs_delivery *delivery, void *arg), void *arg);
/* How many messages it holds right now, which the backend does not count among what is there (mqfs_depths). */
int64_t mqfs_look_held(struct mqfs_look *look);
/* A reference, or NULL. Counts as an access. */
struct mqfs_delivery *mqfs_look_find(struct mqfs_look *look, const char *name);

enum mqfs_look_verb {
	MQFS_LOOK_DISCARD,   /* rmdir */
	MQFS_LOOK_REPLAY,    /* dead/X or retry/X to queue's new/: afresh, attempts 0, priority or -1 */
	MQFS_LOOK_RETRY_NOW, /* retry/X to pending/: to the work queue, history kept */
	MQFS_LOOK_GRANT,     /* dead/X to retry/: one more attempt */
	MQFS_LOOK_BURY,      /* retry/X to dead/: given up */
};

/*
 * Settles one message that was found. queue: REPLAY only, NULL for its own. done runs once with the outcome, -ENOENT
 * when the message is no longer there; on success it is no longer listed.
 */
void mqfs_look_settle(struct mqfs_look *look, struct mqfs_delivery *delivery, enum mqfs_look_verb verb,
                      const char *queue, int priority, int64_t deadline_ms, mqfs_done_fn *done, void *arg);

char *mqfs_look_meta(struct mqfs_look *look, struct mqfs_delivery *delivery);

/* As mqfs_consumer_tick. */
int64_t mqfs_look_tick(struct mqfs_look *look, int64_t now_ms);
void mqfs_look_on_due(struct mqfs_look *look, void (*wake)(void *arg), void *arg);

#endif
