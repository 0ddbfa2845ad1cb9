/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_CONNECTION_H
#define MQFS_AMQP_CONNECTION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <amqp.h>
#include <mqfs/settings.h>

#include "frames.h"
#include "url.h"

/*
 * A connection to the broker, and the one thread that owns it. librabbitmq allows one thread at a
 * connection, so everybody else hands it jobs: submit appends to a list and wakes the owner, who runs what is
 * listed, reads what has come, and sleeps in poll(2). It opens the connection again whenever it is lost.
 *
 * A call of the owner's may block in the broker's socket for a long time. What must not wait meanwhile is
 * the watchdog's (watchdog.h): it answers for jobs whose deadline passes, for those handed in while
 * the connection is away, and it shuts the socket of a call that outlasts its own deadline.
 */

struct connection;
struct watchdog;

/* Work for the owner. Embedded in what it is about; never answered inside connection_submit. */
struct job {
	/* On the owner thread, connected (unless anytime). The job is the callee's from here on. */
	void (*run)(struct job *job, void *role);
	/* Instead of run, once, on any thread: late_result, away_result or -ESHUTDOWN. */
	void (*fail)(struct job *job, int result, const char *reason);
	/* While run is busy and the deadline passes: answer now; run goes on, and finds out by connection_answer. NULL:
	 * run does not block. */
	void (*overdue)(struct job *job);
	int64_t deadline_ms; /* monotonic; MQFS_NEVER */
	int late_result;     /* when the deadline passes before it is run */
	int away_result;     /* when there is no connection at submit; 0: it waits until its deadline */
	bool anytime;        /* is run without a connection, too: it only notes something down */
	/* The connection's own. */
	struct job *prev, *next;
};

/* What a connection is for. All functions run on the owner thread. */
struct connection_role {
	const char *name;
	bool lazy; /* connects at the first job only */
	const struct frame_events *events;
	/* Logged in. Negative: the connection is given up and tried again. */
	int (*opened)(void *arg);
	/* The connection that was opened is no more: -ETIMEDOUT is what became of all that is in the air, or
	 * -ESHUTDOWN. */
	void (*lost)(void *arg, int result, const char *reason);
	/* May jobs be run now? NULL: always. */
	bool (*ready)(void *arg);
	/* Each time round; returns when it wants to be called at the latest (monotonic, MQFS_NEVER). NULL: never. */
	int64_t (*work)(void *arg, int64_t now_ms);
	/* The last call, after lost: complete with -ESHUTDOWN what is still held. NULL: nothing is. */
	void (*stopped)(void *arg);
};

/* Said by the broker when it closed a channel, or the connection, in answer to a call. */
struct refusal {
	int code;
	char text[256];
};

struct connection_status {
	bool connected;
	bool tried;       /* all hosts, in vain, since it was last connected */
	int fatal;        /* a login was refused with this errno, which trying again won't change */
	char reason[512]; /* why it is not connected (of each host that was tried), or blocked */
	char peer[128];   /* without credentials */
	char product[64];
};

struct connection {
	/* Constant once started. */
	const struct connection_role *role;
	void *arg;
	const struct url *url;
	struct mqfs_settings settings;
	struct watchdog *watchdog;
	void (*changed)(void *arg); /* the status did, on the owner thread with no lock held */
	void *changed_arg;
	pthread_t thread;
	int wake_fd; /* eventfd */

	/* The owner thread's own. */
	amqp_connection_state_t state; /* NULL: not connected */
	struct frames frames;
	bool failed;            /* to be given up as soon as the present call is through */
	int64_t calls_until_ms; /* set by the role: no call may take longer, for what else the thread has to do */
	bool gathering; /* set by work: until it is due, jobs may wait in their line, and do not wake the owner */
	char failure[256];
	struct refusal refusal;
	size_t host;       /* the next to try, or the present one */
	size_t tried;      /* hosts of the present round */
	unsigned failures; /* rounds of hosts in a row */
	int fatal;         /* the present round's */
	char round[512];   /* and what was wrong with each of its hosts */
	int64_t retry_ms;
	int64_t opened_ms;
	int64_t tick_ms;
	int version;                /* 31008 for 3.10.8, 0 unknown */
	uint8_t channels[2048 / 8]; /* in use, or not yet to be used again */
	uint8_t retired[2048 / 8];

	/* Written by the owner, read by the watchdog. */
	_Atomic int64_t armed_ms; /* the present call must be over by then */
	/* Read by anybody. */
	_Atomic int64_t asked_ms; /* the broker owes an answer and has said nothing since then; 0: it does not */

	pthread_mutex_t lock; /* guards all below; a leaf */
	pthread_cond_t answered;
	struct job *jobs;    /* utlist: to be run */
	struct job *refused; /* utlist: to be failed by the watchdog, with late_result */
	struct job *running; /* with overdue, until connection_answer */
	bool running_answered;
	bool running_busy; /* overdue is being called */
	bool sleeping;     /* the owner wants to be woken */
	bool hurry;        /* another connection found the broker: try at once, */
	size_t hurry_host; /* and there */
	bool stopping;
	bool stopped;
	int64_t stopping_ms;
	int watch_fd; /* a duplicate of the socket, so that its number can't become another file's; or -1 */
	struct connection_status status;
};

/* ---- any thread ---- */

int connection_init(struct connection *connection, const struct connection_role *role, void *arg, const struct url *url,
                    const struct mqfs_settings *settings, struct watchdog *watchdog);
int connection_start(struct connection *connection); /* 0, or a negative errno */
void connection_stop(struct connection *connection); /* asks; returns at once */
void connection_join(struct connection *connection);
/* When it and the watchdog have ended: fails the jobs that came since. true: there were some, so that there may be
 * more. */
bool connection_drain(struct connection *connection);
void connection_deinit(struct connection *connection);

void connection_submit(struct connection *connection, struct job *job);
void connection_status(struct connection *connection, struct connection_status *ret_status);
/* The broker owes an answer, and has said nothing for so long; 0: it does not. */
int64_t connection_silent_ms(const struct connection *connection);

/* ---- the owner thread ---- */

/* true: the job is unanswered, and its caller's to answer. For a job with overdue, before it is freed. */
bool connection_answer(struct connection *connection, struct job *job);
/* Puts back at the head of the line what was taken from it, also while away. */
void connection_requeue(struct connection *connection, struct job *job);

/* The connection can't be used any more. Keeps the first reason. */
void connection_fail(struct connection *connection, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Around each call that may block: the socket is shut when it isn't over by then. connection_sent and
 * connection_replied disarm, and turn librabbitmq's answers into ours: 0; -ECONNRESET when the connection is to be
 * given up; else the broker closed the channel (it is answered, and gone), with connection->refusal saying why:
 * -ENOENT 404, -EACCES 403 and 405, -EFBIG 311, -EPERM any other.
 */
void connection_arm(struct connection *connection, int64_t deadline_ms);
/* An answer is to come though no call waits for it, or (false) no longer. Anything that comes meanwhile: say so again.
 */
void connection_expect(struct connection *connection, bool answer);
void connection_arm_call(struct connection *connection); /* for a synchronous call's usual time */
int connection_sent(struct connection *connection, int status);
int connection_replied(struct connection *connection, amqp_channel_t channel, amqp_rpc_reply_t reply);
/* What became of the last amqp_queue_declare() and its kind. */
int connection_called(struct connection *connection, amqp_channel_t channel);
int connection_errno(int reply_code);

/* 0 or -ECONNRESET; -EMFILE when the broker allows no more. */
int connection_channel_open(struct connection *connection, amqp_channel_t *ret_channel);
void connection_channel_close(struct connection *connection, amqp_channel_t channel);
/*
 * A call has read what is not yet dispatched. The close of some channel may be among it, in which no call is answered
 * any more: whoever makes several calls, in several channels, lets that come first.
 */
bool connection_is_behind(const struct connection *connection);
/* The broker closed it. */
void connection_channel_gone(struct connection *connection, amqp_channel_t channel);

void connection_set_blocked(struct connection *connection, const char *reason);

/* ---- between connection.c, jobs.c, login.c and watchdog.c ---- */

/* So long does the broker have for the answer to a call. */
#define CONNECTION_CALL_MS 10000
/* After connection_stop a call may go on for so long. */
#define CONNECTION_STOP_MS 2000

void connection_wake(struct connection *connection);
/* Dispatches what has come. */
void connection_read(struct connection *connection);
/* Runs some of what can be run now. */
void connection_run_jobs(struct connection *connection);
/* All that are left, when the owner ends. */
void connection_fail_jobs(struct connection *connection);

/* Tries connection->host. 0 with connection->state usable, or a negative errno with connection->failure saying why. */
int connection_login(struct connection *connection);

/* For the watchdog: does what is due, and returns when the next is. */
int64_t connection_watch(struct connection *connection, int64_t now_ms);

#endif
