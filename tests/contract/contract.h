/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_CONTRACT_H
#define MQFS_TESTS_CONTRACT_H

/*
 * What every backend owes, told by one suite. The backend's URL is MQFS_TEST_URL, or a temporary
 * SQLite file. Each test works in queues of its own; everything a test makes is registered when it is
 * made and undone in reverse order when the test ends, well or not.
 *
 * Completions come on threads of the backend's. They write their results under one lock, and tests
 * wait for a condition with WAIT_UNTIL; only the test's own thread asserts.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>
#include <mqfs/consumer.h>
#include <mqfs/failure.h>
#include <mqfs/look.h>

#define ENOUGH_MS 10000 /* for anything that should happen at once */

/* --- fixture.c --- */

extern struct mqfs_backend *backend;
extern struct mqfs_settings settings; /* the defaults, with short waits; each test starts with them anew */

void contract_open(void); /* exits when the backend can't be opened */
void contract_close(void);
bool is_amqp(void);
const char *contract_url(void);
int contract_setup(void **state);
int contract_teardown(void **state);
#define contract_test(function) cmocka_unit_test_setup_teardown(function, contract_setup, contract_teardown)

/* Undone when the test ends. */
void defer(void (*undo)(void *arg), void *arg);

/* One more mount of the same backend. */
struct mqfs_backend *open_another(void);
void close_another(struct mqfs_backend *another);

void shared_lock(void);
void shared_unlock(void);
void shared_changed(void);             /* with the lock */
bool shared_wait(int64_t deadline_ms); /* with the lock; false: the deadline has come */
int64_t in_ms(int64_t ms);             /* a deadline */
void sleep_ms(int64_t ms);

/* Waits for a condition on what completions write; its value. */
#define WAIT_UNTIL(condition, within_ms)                                                                               \
	({                                                                                                             \
		int64_t wait_deadline = in_ms(within_ms);                                                              \
		bool wait_met;                                                                                         \
		shared_lock();                                                                                         \
		while (!(wait_met = (condition)) && shared_wait(wait_deadline))                                        \
			;                                                                                              \
		shared_unlock();                                                                                       \
		wait_met;                                                                                              \
	})

/* A completion to wait for. */
struct call;
struct call *call_new(void);
void call_done(void *arg, int result, const char *reason); /* mqfs_done_fn, arg a struct call */
int call_wait(struct call *call);                          /* its result; fails the test when there is none; frees */

/* --- queues and messages --- */

/* Declares a queue with settings, under a name that no other test has. The text is valid until the test ends. */
const char *make_queue(void);
/* A name that nothing has. */
const char *make_name(void);
int declare(const char *queue);
int find(struct mqfs_backend *at, const char *queue);
int delete_queue(const char *queue);
struct mqfs_depths depths(const char *queue);
/* The depth comes to be that within a moment (RabbitMQ's counts follow). */
bool ready_becomes(const char *queue, int64_t ready);
bool dead_becomes(const char *queue, int64_t dead);
bool retry_becomes(const char *queue, int64_t retry);

struct mqfs_message *message_new(const char *body);
struct mqfs_message *message_with(const char *body, int priority, const char *message_id);
int publish_message(const char *queue, enum mqfs_place place, int64_t delay_ms, struct mqfs_message *message);
void publish(const char *queue, const char *body); /* stamped as mqfs does; must be confirmed */
void publish_at(const char *queue, const char *body, int priority);
void publish_numbers(const char *queue, int count); /* bodies "0", "1", … */
int number_of(const struct mqfs_delivery *delivery);
bool has_body(const struct mqfs_delivery *delivery, const char *body);
/* Settles a delivery of an intake's (intake.c releases those that were not). */
int settle(struct mqfs_delivery *delivery, enum mqfs_verb verb);
int settle_at(struct mqfs_backend *at, struct mqfs_delivery *delivery, enum mqfs_verb verb);

/* --- intake.c: a consumer of the backend's, without the window --- */

#define INTAKE_MAX 4096
struct intake {
	struct mqfs_backend *at;
	const char *queue;
	bool consuming;
	/* shared */
	struct mqfs_delivery *deliveries[INTAKE_MAX]; /* references */
	size_t count;
	size_t taken; /* the test's: how many intake_next has given */
	int prepared_count, prepared, drained_count, ended;
	bool early; /* something was delivered before prepared */
	uint64_t lost;
};
struct intake *intake_new(struct mqfs_backend *at, const char *queue, int prefetch);
void intake_stop(struct intake *intake);                /* cancels; what it holds stays settleable */
void intake_forget(struct intake *intake);              /* its backend is closed */
bool intake_has(struct intake *intake, size_t count);   /* or comes to have */
bool intake_stays(struct intake *intake, size_t count); /* nothing more comes for a while */
/* The next delivery not yet taken from the intake, in order; fails the test when none comes. The intake keeps the
 * reference. */
struct mqfs_delivery *intake_next(struct intake *intake);

/* --- reader.c: a window, looks, and the thread that calls their ticks --- */

struct reader;
struct reader *reader_new(struct mqfs_backend *at, const char *queue);
void reader_free(struct reader *reader); /* also early */
struct mqfs_consumer *window(struct reader *reader);
struct mqfs_counters *counted(struct reader *reader);
/* Outcomes are counted when the backend has done them, a moment after they were answered. */
bool comes_to(atomic_ullong *counter, unsigned long long value);
struct mqfs_look *look_at(struct reader *reader, enum mqfs_place place);
/* Claims, waiting at most within_ms; NULL when nothing came. The test's end drops the reference. */
struct mqfs_delivery *claim_within(struct reader *reader, int64_t within_ms);
struct mqfs_delivery *claim(struct reader *reader); /* or the test fails */
/* Looks at the window and waits until that many are listed in state. */
bool window_shows(struct reader *reader, enum mqfs_delivery_state state, size_t count);
/* The first of the window listed in state; the test's end drops the reference. */
struct mqfs_delivery *window_first(struct reader *reader, enum mqfs_delivery_state state);
int window_stop(struct reader *reader);
int forward(struct reader *reader, struct mqfs_delivery *delivery, const char *queue, int priority);

/* Refreshes, and gives the number listed (as fresh as a look may be). */
size_t look_count(struct mqfs_look *look);
bool look_shows(struct mqfs_look *look, size_t count); /* within a moment */
/* The listed message with this body; fails the test when there is none. The test's end drops the reference. */
struct mqfs_delivery *look_find_body(struct mqfs_look *look, const char *body);
int look_settle(struct mqfs_look *look, struct mqfs_delivery *delivery, enum mqfs_look_verb verb, const char *queue,
                int priority);

struct mqfs_history history_of(const struct mqfs_delivery *delivery);

/* --- the groups, each in a file of its own; they return how many tests failed --- */
int test_queues(void);
int test_publishing(void);
int test_messages(void);
int test_consuming(void);
int test_window(void);
int test_clocks(void);
int test_failing(void);
int test_looking(void);
int test_leases(void);
int test_outbox(void);
/* test_leases starts this program again as another mount: takes a message, stops itself, settles when continued. */
int lease_child(const char *queue);

#endif
