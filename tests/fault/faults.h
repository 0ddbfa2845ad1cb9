/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_FAULTS_H
#define MQFS_TESTS_FAULTS_H

/*
 * The RabbitMQ backend on a real broker that is made to misbehave. tests/support/broker gives the
 * environment: MQFS_TEST_URL, MQFS_TEST_RABBITMQCTL (a line for sh) and MQFS_TEST_BROKER_PID. Without
 * them the tests are skipped.
 *
 * Completions come on threads of the backend's and write under one lock; only the test's thread asserts.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>
#include <mqfs/failure.h>

#define ENOUGH_MS 15000
#define HELD_MAX 256

extern struct mqfs_backend *backend;
extern struct mqfs_settings settings;

/* One completion. */
struct call {
	bool done;
	int result;
	char reason[256];
	int64_t took_ms;
	int64_t began_ms;
	struct mqfs_depths depths;
	struct mqfs_delivery *found[HELD_MAX];
	size_t count;
};

/* What came to a sink. */
struct intake {
	char queue[128];
	struct mqfs_delivery *held[HELD_MAX]; /* references */
	size_t count;
	unsigned lost, drained, ended, prepared;
	uint64_t lost_generation;
	int ended_result, prepared_result;
};

void faults_lock(void);
void faults_unlock(void);
bool faults_wait(int64_t deadline_ms); /* with the lock; false: it has come */
int64_t in_ms(int64_t ms);
void sleep_ms(int64_t ms);

#define WAIT_UNTIL(condition, within_ms)                                                                               \
	({                                                                                                             \
		int64_t wait_deadline = in_ms(within_ms);                                                              \
		bool wait_met;                                                                                         \
		faults_lock();                                                                                         \
		while (!(wait_met = (condition)) && faults_wait(wait_deadline))                                        \
			;                                                                                              \
		faults_unlock();                                                                                       \
		wait_met;                                                                                              \
	})

int faults_setup(void **state);    /* opens the backend, skips without a broker */
int faults_teardown(void **state); /* closes it, which must not take long */
#define fault_test(function) cmocka_unit_test_setup_teardown(function, faults_setup, faults_teardown)

/* rabbitmqctl with these arguments, a line for sh; it must succeed. */
void ctl(const char *format, ...) __attribute__((format(printf, 1, 2)));
pid_t broker_pid(void);
struct mqfs_backend *open_url(const char *url);
/* The broker's URL with other credentials, vhost or port (0: its own); static. */
const char *url_with(const char *credentials, const char *vhost, int port);

struct mqfs_message *message_of(size_t bytes);
void begin(struct call *call);
void call_done(void *arg, int result, const char *reason);
int finish(struct call *call); /* waits; its result */
int publish_to(struct mqfs_backend *to, const char *queue, struct mqfs_message *message, int64_t timeout_ms);
void begin_publish(struct call *call, const char *queue, struct mqfs_message *message, int64_t timeout_ms);
int find_queue(const char *queue, int64_t timeout_ms);
/* A new queue of settings; static name until the next call. */
const char *make_queue(const char *stem);
int64_t ready_in(const char *queue);
int64_t dead_in(const char *queue);

void intake_start(struct intake *intake, const char *queue, int prefetch);
void intake_change(struct intake *intake, int prefetch);
void intake_stop(struct intake *intake); /* cancels, drops the references */
int settle(struct mqfs_delivery *delivery, enum mqfs_verb verb);
/* A memory alarm: returns when the broker blocks the backend, with what the publish got that found it so. */
int raise_alarm(void);
void end_alarm(void);
bool works_again(const char *queue, int64_t within_ms); /* a publish succeeds */

#endif
