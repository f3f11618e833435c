"""Teachers: pixels in, summary and features out."""

from radio.training.teachers.building import KINDS, build_teacher
from radio.training.teachers.protocol import Teacher, TeacherOutput

__all__ = ["KINDS", "Teacher", "TeacherOutput", "build_teacher"]
