/* What the files of the compiled kernel share: reading Python's numbers without running Python code, and what each file
   gives to the module that `_kernel.c` makes of them.

   Every function here checks the type of what it is given: whatever a caller passes, it gets an error, never a crash. */

#ifndef TAGBID_KERNEL_H
#define TAGBID_KERNEL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>

#define METHOD(function) (PyCFunction)(void (*)(void))(function)

extern PyTypeObject ForestType; /* _forest.c, twin: models.forest */
extern PyTypeObject PairsType;  /* _pairs.c, twin: models.pairs.pair_columns */
extern PyTypeObject NowType;    /* _now.c, twin: models.features.now_values */

PyObject *chances(PyObject *module, PyObject *const *args, Py_ssize_t nargs); /* _chances.c */
PyObject *look_up(PyObject *module, PyObject *const *args, Py_ssize_t nargs); /* _lookups.c, both */
PyObject *ones(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

/* Names of the attributes that are read, and numbers that are handed out again and again; made once. */
typedef struct {
    PyObject *tags, *audiences, *contacts, *vector, *realtime;          /* dmp.schema.User */
    PyObject *scope, *hour, *count;                                     /* dmp.schema.Contact */
    PyObject *category, *topics, *searched, *fences, *floor_micros;     /* models.context.Context */
    PyObject *nan, *zero, *half, *one;                                  /* floats */
    PyObject *no, *once, *twice;                                        /* ints: 0, 1, 2 */
} Constants;
extern Constants constants;

/* An item of a contact record: `count` impressions of a scope within one hour. */
typedef struct {
    int64_t scope, hour, count;
} Met;

#define FEW 64 /* entries that need no memory of their own */

/* Contacts of a user; `*met` is `few`, which holds FEW, or memory to free. Their number, -1 with an error. */
Py_ssize_t read_contacts(PyObject *contacts, Met *few, Met **met);

/* Whole hours since 1970 of a time in microseconds, rounded down as Python's `//` does. */
static inline int64_t hour_of(int64_t us) {
    const int64_t hour = INT64_C(3600000000);
    return us / hour - (us % hour < 0);
}

/* The value of a float or an int. Nothing else is asked for one: its answer would be Python code, which could shorten
   the very list that is being read. */
static inline int number(PyObject *object, double *value) {
    if (PyFloat_CheckExact(object) || (!PyLong_Check(object) && PyFloat_Check(object))) {
        *value = PyFloat_AS_DOUBLE(object);
        return 0;
    }
    if (!PyLong_Check(object)) {
        PyErr_Format(PyExc_TypeError, "a float is needed, not %.100s", Py_TYPE(object)->tp_name);
        return -1;
    }
    *value = PyLong_AsDouble(object);
    return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* The value of an int of at most 64 bits; runs no Python code, as `number`. */
static inline int whole(PyObject *object, int64_t *value) {
    if (!PyLong_Check(object)) {
        PyErr_Format(PyExc_TypeError, "an int is needed, not %.100s", Py_TYPE(object)->tp_name);
        return -1;
    }
    *value = PyLong_AsLongLong(object);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

/* An int from 0 to below `size`, -1 with an error for anything else; runs no Python code, as `number`. */
static inline Py_ssize_t position(PyObject *object, Py_ssize_t size) {
    if (!PyLong_Check(object)) {
        PyErr_Format(PyExc_TypeError, "a position is an int, not %.100s", Py_TYPE(object)->tp_name);
        return -1;
    }
    const Py_ssize_t at = PyLong_AsSsize_t(object);
    if (at >= 0 && at < size) return at;
    if (!PyErr_Occurred()) PyErr_Format(PyExc_IndexError, "no such position: %zd of %zd", at, size);
    return -1;
}

/* The object, or NULL with a TypeError when it is not of the type; takes over the reference, also of NULL. */
static inline PyObject *checked(PyObject *object, int fits, const char *what) {
    if (object && !fits) {
        PyErr_Format(PyExc_TypeError, "%s is needed, not %.100s", what, Py_TYPE(object)->tp_name);
        Py_CLEAR(object);
    }
    return object;
}

/* A new reference to an attribute that is of a type, else NULL with an error. */
#define ATTRIBUTE(object, name, check, what) ({                                                                            \
    PyObject *found_ = PyObject_GetAttr(object, name);                                                                     \
    checked(found_, found_ && check(found_), what);                                                                        \
})

static inline int open_buffer(PyObject *object, Py_buffer *view, Py_ssize_t itemsize) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS) < 0) return -1;
    if (view->itemsize != itemsize) {
        PyBuffer_Release(view);
        view->obj = NULL;
        PyErr_Format(PyExc_ValueError, "items of %zd bytes are needed", itemsize);
        return -1;
    }
    return 0;
}

#endif
