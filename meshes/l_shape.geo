// L-shape: the unit square without its upper right quarter, corner at (1/2, 1/2).
size = 0.08;
Point(1) = {0, 0, 0, size};
Point(2) = {1, 0, 0, size};
Point(3) = {1, 0.5, 0, size};
Point(4) = {0.5, 0.5, 0, size};
Point(5) = {0.5, 1, 0, size};
Point(6) = {0, 1, 0, size};
Line(1) = {1, 2};
Line(2) = {2, 3};
Line(3) = {3, 4};
Line(4) = {4, 5};
Line(5) = {5, 6};
Line(6) = {6, 1};
Curve Loop(1) = {1, 2, 3, 4, 5, 6};
Plane Surface(1) = {1};
Physical Curve("boundary") = {1, 2, 3, 4, 5, 6};
Physical Surface("domain") = {1};
