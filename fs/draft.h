/* SPDX-License-Identifier: MIT */
#ifndef FS_DRAFT_H
#define FS_DRAFT_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include <mqfs/message.h>
#include <mqfs/name.h>

#include "complete.h"
#include "fs.h"

/*
 * A draft: a file being written in new/, on its way to becoming a message.
 *
 *          CREATE                       complete (P8)                 confirmed
 *   (none) -------> WRITING -----------------------------> SENDING -------------> GHOST --2 s--> GONE
 *                    ^   | \  nothing written               | ^  \                  ^
 *         opened for |   |  \----------------> EMPTY        | |   \ away (P6)       | confirmed
 *         writing    |   |  <-------------------/ |         | |    \----> QUEUED ---/
 *                    |   |     opened (P7)        | refused | | renamed     |
 *                    |   | spoiled, killed        |         v | (P7)        | refused
 *                    |   +---------------------------------> KEPT <---------/
 *                    |                            | renamed    |
 *                    +--------- DOT <-------------+------------+---- QUEUED     renamed to a dot-name
 *                renamed while     \
 *                open for writing   \--- renamed (P2) ---> SENDING ---refused---> what it was before
 *
 *   KEPT, QUEUED --rm--> REMOVED --2 s--> GONE      (or back, when its remover writes the name anew: mv does so)
 *
 * DOT, EMPTY, KEPT, QUEUED and GHOST have a name and are found by it; WRITING and SENDING have none, so that every open
 * for writing is a message of its own. draft_move() is the table. Removing a draft makes it GONE; who still has
 * it open reads and writes nobody's file, as with any unlinked one.
 *
 * QUEUED is a message of the outbox: the state file has it, and this or another mount of the host sends it. What is
 * KEPT, DOT or EMPTY is in the state file too, so that it outlives the process; draft_store.h keeps the two alike. The
 * content of what is on the disk need not be in memory: see draft_fetch there.
 *
 * A delivery's life (mqfs/delivery.h) is another machine; neither drives the other.
 */
enum draft_state {
	DRAFT_WRITING,
	DRAFT_DOT,
	DRAFT_EMPTY,
	DRAFT_SENDING,
	DRAFT_QUEUED,
	DRAFT_KEPT,
	DRAFT_REMOVED,
	DRAFT_GHOST,
	DRAFT_GONE,
	DRAFT_STATES
};

struct draft_sync;

struct draft {
	atomic_uint references;
	struct queue *queue; /* a reference */

	/* All guarded by fs->lock. */
	enum draft_state state;
	enum draft_state before; /* what it was when it became SENDING or REMOVED */
	int priority;            /* of the directory: N of new/@N/, -1 in new/ */
	char *key;               /* "PRIORITY/NAME", the wish; while named, what it is in queue->drafts by */
	const char *name;        /* points into key */
	bool named;
	struct queue *target_queue; /* SENDING by rename: where to, a reference; NULL: as it is */
	int target_priority;
	char *target_name;
	mode_t mode;
	struct mqfs_message *message; /* properties and body; NULL: on the disk only, or no longer of use */
	size_t bytes;                 /* the body's size, also of a ghost */
	int64_t delay_ms;
	int64_t modified_us;
	int64_t accessed_us; /* as it was set; 0: as modified_us */
	struct writers writers;
	unsigned handles; /* open files that can write */
	unsigned pins;    /* who needs the message in memory: open files, requests */
	bool stale;       /* the message is older than what another mount has put into the state file */
	bool counted;     /* in queue->draft_count */
	bool spoiled;     /* a write failed, or it is half-written */
	bool killed;      /* a writer was killed in the middle */
	bool attempted;   /* a close() or rename tried to publish it */
	bool published;   /* it is a message now */
	bool was_queued;  /* … which the outbox sent */
	int error;        /* errno of the refusal, positive */
	char *reason;     /* KEPT: of the refusal, beside error; may be NULL */
	ticket_t ticket;  /* who waits for what becomes of it: answered with answer when it has come to rest */
	int answer;       /* an errno, positive; 0 */
	int64_t until_ms; /* a ghost's or a removed one's time */
	pid_t removed_by; /* REMOVED: the thread */
	fuse_ino_t dir;   /* where the kernel knows the name, for notify_forget_name */

	/* What the state file has of it: draft_store.c's. */
	int64_t stored_id;             /* 0: nothing */
	char *stored_name;             /* there; NULL: nothing */
	bool insisted;                 /* on the name, which another entry has there */
	unsigned version;              /* counts what the state file should follow */
	unsigned stored_version;       /* this is on the disk */
	unsigned failed_version;       /* this could not be brought there */
	unsigned wanted_version;       /* an fsync() waits for this, whoever has it open */
	int store_error;               /* why, positive */
	char made_id[MQFS_UUID_BYTES]; /* the message-id when none is given; "": not made yet */
	bool storing;                  /* a request about it is under way */
	bool queueing;                 /* SENDING: into the outbox */
	struct queue *line;            /* in whose queue->in_line it is counted, a reference; or NULL */
	struct draft_sync *syncs;

	UT_hash_handle hh;                   /* queue->drafts, by key */
	UT_hash_handle by_id;                /* fs->stored, by stored_id */
	struct draft *prev, *next;           /* queue->ghosts or queue->removed */
	struct draft *prev_live, *next_live; /* fs->live: all there are */
};

#define DRAFT_GHOST_MS 2000
#define DRAFT_REMOVED_MS 2000
/* More than these, and the oldest go early: at 20,000 messages a second nobody comes back for one. */
#define DRAFT_GHOSTS_MAX 16384

/* All functions are (locked) unless said otherwise. */

/* A new one with one reference, in state WRITING. NULL: out of memory, or too many drafts (errno says which). */
struct draft *draft_new(struct queue *queue, int priority, const char *name, mode_t mode);
/* One for what the state file has: EMPTY, without name and message, and however many there are. */
struct draft *draft_new_stored(struct queue *queue, int priority, const char *name, mode_t mode);
struct draft *draft_ref(struct draft *draft);
void draft_unref(struct draft *draft);

/* Moves it to state, along the arrows above only. */
void draft_move(struct draft *draft, enum draft_state state);
bool draft_may(enum draft_state from, enum draft_state to);

/* The one with this name in new/ (-1) or new/@priority/, or NULL. */
struct draft *draft_find(struct queue *queue, int priority, const char *name);

/* Ghosts, and empty drafts that nobody has open, go when another draft wants their name. */
bool draft_makes_room(const struct draft *draft);
/* Gives it the name, or name~2, … where one has it that makes no room. Out of memory leaves it as it is, so that what
 * has no name may have none then. */
void draft_set_name(struct draft *draft, struct queue *queue, int priority, const char *name);
void draft_drop_name(struct draft *draft);

/* Something of it is new: the state file follows (draft_store.h). */
void draft_changed(struct draft *draft);

/* Keeps a refused or unfinished draft, listed, with the reason (may be NULL). The caller says draft_changed. */
void draft_keep(struct draft *draft, int error, const char *reason);
/* It waits in the outbox, listed as name. */
void draft_queue(struct draft *draft, struct queue *queue, int priority, const char *name);
/* SENDING by rename is over: it is where it is. */
void draft_forget_target(struct draft *draft);
/* Where it is to be published: while it is SENDING by rename that is another place than its own. */
struct destination {
	struct queue *queue;
	int priority;
	const char *name;
};
struct destination draft_destination(const struct draft *draft);
/* It counts in queue's line from now on; NULL: in none. */
void draft_line_up(struct draft *draft, struct queue *queue);
/* An ordinary file, of that name. */
void draft_become_file(struct draft *draft, struct queue *queue, int priority, const char *name);
/* Its message was confirmed: the name answers for 2 s more. */
void draft_become_ghost(struct fs *fs, struct draft *draft);
/* A ghost is renamed: its name moves, and nothing else. */
void draft_move_ghost(struct draft *draft, struct queue *queue, int priority, const char *name);
/* An ordinary file was renamed while it is open for writing: it will be a message of that name, when complete (P2). */
void draft_reopen(struct draft *draft, struct queue *queue, int priority, const char *name);
/* It is removed, at once. */
void draft_discard(struct draft *draft);

/*
 * rm of what is KEPT or QUEUED (which the outbox has given back). But mv across filesystems and install(1) unlink the
 * file of the name that they are about to write, and nobody means to lose a message then. So draft_put_back gives back
 * what the same thread has removed less than 2 s ago and now creates anew: what was QUEUED, which its writer was told
 * is safe, in any case (it is QUEUED here, and draft_line_up_again tells the file); what was KEPT, when it is created
 * with O_EXCL, as these tools do: a program that tries again after an error may well remove and write. NULL: nothing.
 */
void draft_remove(struct fs *fs, struct draft *draft, pid_t tid);
struct draft *draft_put_back(struct queue *queue, int priority, const char *name, pid_t tid, bool exclusive);

/* Its content stays in memory between these; draft_unpin lets it go when the disk has it, and nobody needs it. */
void draft_pin(struct draft *draft);
void draft_unpin(struct draft *draft);
void draft_let_go(struct draft *draft);

/* The queue has gone: its drafts have nowhere to go, and go with it. */
void drafts_clear(struct queue *queue);

/* Lets ghosts and removed ones go whose time is over; returns when the next is due. */
int64_t drafts_tick(struct fs *fs, struct queue *queue, int64_t now_ms);

/* Is there something to send, and was it never tried? */
bool draft_has_data(const struct draft *draft);

/* Has queue something in new/, or in the outbox? */
bool queue_has_drafts(const struct queue *queue);

#endif
